//! The effective configuration, with where each value came from: as a file that loads, or as JSON.

use std::fmt::Write;

use serde::Serialize;

use crate::config::raw::{Layers, Source};

/// One setting as it takes effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// `section.name`.
    pub key: &'static str,
    /// Its text.
    pub value: String,
    /// `default`, `file`, `environment` or `flag`.
    pub source: &'static str,
    /// The file, variable or flag; for a value taken from another key, that key.
    pub from: Option<String>,
    /// Variable that would set it.
    pub environment: String,
}

impl Setting {
    /// `default`, `file catchment.toml`, `default, as lease.application`.
    fn origin(&self) -> String {
        match &self.from {
            Some(from) if self.source == "default" => format!("default, as {from}"),
            Some(from) => format!("{} {from}", self.source),
            None => self.source.to_owned(),
        }
    }
}

/// Every setting, in the order of the documentation. There are no secrets among them: credentials
/// come from the places of the AWS SDK.
pub fn settings(layers: &Layers) -> Vec<Setting> {
    let all = layers.iter().map(|(key, value, source)| {
        let (source, from) = match source {
            Source::Default => ("default", None),
            Source::File(path) => ("file", Some(path.clone())),
            Source::Environment(name) => ("environment", Some(name.clone())),
            Source::Flag(name) => ("flag", Some(name.clone())),
        };
        let (key, environment, value) = (key.name, key.environment(), value.to_owned());
        Setting { key, value, source, from, environment }
    });
    let mut all: Vec<Setting> = all.collect();
    let application = layers.get("lease.application").0;
    for table in all.iter_mut().filter(|s| s.key == "lease.table" && s.value.is_empty()) {
        application.clone_into(&mut table.value);
        (table.source, table.from) = ("default", Some("lease.application".into()));
    }
    all
}

/// A TOML file that sets everything, each line with its origin.
pub fn toml(settings: &[Setting]) -> String {
    let mut text = String::new();
    let mut open = "";
    for setting in settings {
        let Some((section, name)) = setting.key.split_once('.') else { continue };
        if section != open {
            let gap = if open.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{gap}[{section}]");
            open = section;
        }
        let value = toml::Value::String(setting.value.clone());
        // A file name may hold anything; a comment ends with the line.
        let origin: String =
            setting.origin().chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let _ = writeln!(text, "{name} = {value}  # {origin}");
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::keys::KEYS;

    fn setting<'a>(all: &'a [Setting], key: &str) -> &'a Setting {
        all.iter().find(|s| s.key == key).unwrap()
    }

    #[test]
    fn every_key_says_where_it_comes_from() {
        let mut layers = Layers::default();
        layers.file("c.toml", "[stream]\nname = \"clicks\"\npage_records = 7\n");
        layers.environment([("CATCHMENT_LEASE_APPLICATION".into(), "app".into())]);
        layers.set("delivery.level", "3".into(), Source::Flag("--set delivery.level".into()));
        let all = settings(&layers);
        assert_eq!(all.len(), KEYS.len());
        assert_eq!(setting(&all, "stream.page_records").origin(), "file c.toml");
        assert_eq!(setting(&all, "lease.scan").origin(), "default");
        assert_eq!(setting(&all, "delivery.level").origin(), "flag --set delivery.level");
        let table = setting(&all, "lease.table");
        assert_eq!(
            (table.value.as_str(), table.origin().as_str()),
            ("app", "default, as lease.application")
        );
    }

    proptest! {
        #[test]
        fn what_is_printed_loads_with_the_same_values(value in "\\PC{0,20}|[\\x00-\\x7f]{0,12}", file in "[\\x00-\\x7f]{0,12}") {
            let mut layers = Layers::default();
            layers.set("stream.name", value.clone(), Source::File(file));
            let before = settings(&layers);
            let mut again = Layers::default();
            again.file("again.toml", &toml(&before));
            prop_assert!(again.problems.is_empty(), "{:?}", again.problems);
            let after = settings(&again);
            prop_assert!(before.iter().zip(&after).all(|(a, b)| (a.key, &a.value) == (b.key, &b.value)));
        }
    }
}
