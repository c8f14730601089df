//! The fuzz targets without a fuzzer: every seed, and hundreds of changes to each, the same ones every
//! time. It is a test of the main package, so it needs no nightly compiler and nothing is built again
//! for it; `.ci/fuzz.sh` finds what such changes do not reach.

#![expect(clippy::unwrap_used, reason = "this is all test code")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

// What the targets import.
extern crate self as libfuzzer_sys;

macro_rules! targets {
    ($($name:ident $path:literal)*) => {
        $(
            // Of attributes that only a crate can have: to the fuzzer they are crates.
            #[allow(unused_attributes)]
            #[path = $path]
            mod $name;
        )*

        const TARGETS: &[&str] = &[$(stringify!($name)),*];

        mod seeds_and_changes {
            $(
                #[test]
                fn $name() {
                    super::try_all(stringify!($name), super::$name::run);
                }
            )*
        }
    };
}

targets! {
    aggregate "fuzz_targets/aggregate.rs"
    cbor "fuzz_targets/cbor.rs"
    config "fuzz_targets/config.rs"
    envelope "fuzz_targets/envelope.rs"
    expansion "fuzz_targets/expansion.rs"
    field "fuzz_targets/field.rs"
    frames "fuzz_targets/frames.rs"
    intents "fuzz_targets/intents.rs"
    key_template "fuzz_targets/key_template.rs"
    lease_row "fuzz_targets/lease_row.rs"
    reply "fuzz_targets/reply.rs"
}

/// As in libfuzzer-sys: the bytes as they are, or what `arbitrary` makes of them.
macro_rules! fuzz_target {
    (|$input:ident: &[u8]| $body:block) => {
        pub(super) fn run($input: &[u8]) $body
    };
    (|$input:ident: $kind:ty| $body:block) => {
        pub(super) fn run(bytes: &[u8]) {
            fn target($input: $kind) $body
            let bytes = arbitrary::Unstructured::new(bytes);
            if let Ok(input) = arbitrary::Arbitrary::arbitrary_take_rest(bytes) {
                target(input);
            }
        }
    };
}
pub(crate) use fuzz_target;

/// Changes to each seed.
const CHANGES: usize = 300;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

/// The files of a folder in the order of their names, which is the same everywhere.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn try_all(target: &str, run: fn(&[u8])) {
    let files = files(&folder("seeds").join(target));
    let seeds: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(!seeds.is_empty(), "fuzz/seeds/{target} is empty");
    let mut random = fastrand::Rng::with_seed(1);
    for (file, seed) in files.iter().zip(&seeds) {
        try_one(file, seed, run);
        for _ in 0..CHANGES {
            let mut changed = seed.clone();
            for _ in 0..random.usize(1..4) {
                change(&mut changed, &seeds, &mut random);
            }
            try_one(file, &changed, run);
        }
    }
}

fn try_one(file: &Path, input: &[u8], run: fn(&[u8])) {
    if catch_unwind(AssertUnwindSafe(|| run(input))).is_err() {
        panic!("{}, as it is or changed to \"{}\"", file.display(), input.escape_ascii());
    }
}

/// A bit, a byte with a meaning, a piece left out, doubled, or taken from another seed.
fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut fastrand::Rng) {
    let at = random.usize(..=bytes.len());
    let end = random.usize(at..=bytes.len().min(at + 64));
    match random.u8(..5) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
        1 if at < bytes.len() => {
            bytes[at] = *random.choice(b"\0\x01\x7f\x80\xff\"\\{}[]:,!0-").unwrap()
        }
        2 => drop(bytes.drain(at..end)),
        3 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
        _ => {
            let other = random.choice(seeds).unwrap();
            let from = random.usize(..=other.len());
            let to = random.usize(from..=other.len().min(from + 64));
            drop(bytes.splice(at..end, other[from..to].iter().copied()));
        }
    }
}

#[test]
fn every_target_is_tried() {
    let named: Vec<_> = TARGETS.iter().map(|name| (*name).to_owned()).collect();
    for (kind, folder) in [("target", "fuzz_targets"), ("folder of seeds", "seeds")] {
        let found: Vec<_> = files(&self::folder(folder))
            .iter()
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(found, named, "fuzz/{folder}: each {kind} is listed in targets! above");
    }
}
