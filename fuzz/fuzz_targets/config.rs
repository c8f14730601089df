//! Configuration files: a configuration, or a list of problems that each name what they are about.
#![no_main]

use catchment::config::Config;
use catchment::config::raw::Layers;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut layers = Layers::default();
    layers.file("catchment.toml", text);
    if let Err(invalid) = Config::from_layers(layers) {
        assert!(!invalid.0.is_empty());
        assert!(invalid.0.iter().all(|p| !p.key.is_empty() && !p.reason.is_empty()));
    }
});
