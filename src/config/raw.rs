//! Layers of text: defaults, then the file, then the environment, then flags.

use std::collections::BTreeMap;

use crate::config::keys::{KEYS, Key, find};

/// Where a value came from, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The built-in default.
    Default,
    /// The configuration file.
    File(String),
    /// An environment variable.
    Environment(String),
    /// A command-line flag.
    Flag(String),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {path}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The key, or what stands in its place.
    pub key: String,
    /// The offending value.
    pub value: String,
    /// What is wrong and what would be right.
    pub reason: String,
    /// Where the value came from.
    pub source: Source,
}

impl std::fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.value.is_empty() {
            write!(f, "{}: {} ({})", self.key, self.reason, self.source)
        } else {
            write!(f, "{} = {:?}: {} ({})", self.key, self.value, self.reason, self.source)
        }
    }
}

/// Text values by key, each with its source.
#[derive(Clone, Debug)]
pub struct Layers {
    values: BTreeMap<&'static str, (String, Source)>,
    /// Everything found wrong so far.
    pub problems: Vec<ConfigProblem>,
}

impl Default for Layers {
    fn default() -> Self {
        let values =
            KEYS.iter().map(|k| (k.name, (k.default.to_owned(), Source::Default))).collect();
        Self { values, problems: Vec::new() }
    }
}

impl Layers {
    /// The text of a key and where it came from.
    pub fn get(&self, name: &'static str) -> (&str, Source) {
        self.values.get(name).map_or(("", Source::Default), |(v, s)| (v.as_str(), s.clone()))
    }

    /// All values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Key, &str, &Source)> {
        KEYS.iter().filter_map(|k| self.values.get(k.name).map(|(v, s)| (k, v.as_str(), s)))
    }

    /// Sets one key; unknown names become problems.
    pub fn set(&mut self, name: &str, value: String, source: Source) {
        match find(name) {
            Some(key) => {
                self.values.insert(key.name, (value, source));
            }
            None => self.problems.push(ConfigProblem {
                // A problem that names nothing helps nobody.
                key: if name.is_empty() { "\"\"" } else { name }.to_owned(),
                value,
                reason: unknown(name),
                source,
            }),
        }
    }

    /// Reads a TOML file's text.
    pub fn file(&mut self, path: &str, text: &str) {
        let source = Source::File(path.to_owned());
        let table: toml::Table = match toml::from_str(text) {
            Ok(table) => table,
            Err(error) => {
                self.problems.push(ConfigProblem {
                    key: path.to_owned(),
                    value: String::new(),
                    reason: format!("not valid TOML: {}", error.to_string().trim_end()),
                    source,
                });
                return;
            }
        };
        for (section, value) in table {
            let toml::Value::Table(entries) = value else {
                self.set(&section, value.to_string(), source.clone());
                continue;
            };
            for (name, value) in entries {
                let text = match value {
                    toml::Value::String(text) => text,
                    toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => {
                        value.to_string()
                    }
                    toml::Value::Datetime(time) => time.to_string(),
                    toml::Value::Array(_) | toml::Value::Table(_) => {
                        self.problems.push(ConfigProblem {
                            key: format!("{section}.{name}"),
                            value: value.to_string(),
                            reason: "a string, number or boolean is expected".into(),
                            source: source.clone(),
                        });
                        continue;
                    }
                };
                self.set(&format!("{section}.{name}"), text, source.clone());
            }
        }
    }

    /// Reads `CATCHMENT_*` variables. `CATCHMENT_CONFIG` and `CATCHMENT_LOG` belong to the command
    /// line and are passed over.
    pub fn environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        for (name, value) in variables {
            if !name.starts_with("CATCHMENT_")
                || matches!(name.as_str(), "CATCHMENT_CONFIG" | "CATCHMENT_LOG")
            {
                continue;
            }
            let key = KEYS.iter().find(|k| k.environment() == name);
            let source = Source::Environment(name.clone());
            match key {
                Some(key) => self.set(key.name, value, source),
                None => {
                    let guess =
                        name["CATCHMENT_".len()..].to_ascii_lowercase().replacen('_', ".", 1);
                    self.problems.push(ConfigProblem {
                        key: name,
                        value,
                        reason: unknown(&guess),
                        source,
                    });
                }
            }
        }
    }
}

/// Keys that have another name since.
const RENAMED: [(&str, &str); 4] = [
    ("delivery.errors", "delivery.error_prefix"),
    ("delivery.pipeline", "delivery.inflight_batches"),
    ("delivery.uploads", "delivery.upload_events"),
    ("delivery.uploads_in_flight", "delivery.concurrent_puts"),
];

fn unknown(name: &str) -> String {
    if let Some((_, new)) = RENAMED.iter().find(|(old, _)| *old == name) {
        return format!("this key was renamed to `{new}`");
    }
    let nearest = KEYS.iter().min_by_key(|k| distance(k.name, name));
    match nearest {
        Some(key) if distance(key.name, name) <= name.len() / 2 => {
            format!("unknown key; did you mean `{}`?", key.name)
        }
        _ => "unknown key; docs/CONFIGURATION.md lists them".into(),
    }
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut previous = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = previous + usize::from(x != *y);
            previous = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_layers_win_and_say_where_they_come_from() {
        let mut layers = Layers::default();
        layers.file("c.toml", "[stream]\nname = \"a\"\npage_records = 7\n");
        layers.environment([
            ("CATCHMENT_STREAM_NAME".into(), "b".into()),
            ("PATH".into(), "x".into()),
        ]);
        assert_eq!(layers.get("stream.name").0, "b");
        assert_eq!(layers.get("stream.page_records"), ("7", Source::File("c.toml".into())));
        assert_eq!(layers.get("lease.failover"), ("10s", Source::Default));
        assert!(layers.problems.is_empty());
    }

    #[test]
    fn unknown_keys_are_refused_with_a_guess() {
        let mut layers = Layers::default();
        layers.file("c.toml", "top = 1\n\"\" = 2\n[stream]\nnmae = \"a\"\n[lease]\nmax = [1]\n");
        layers.environment([("CATCHMENT_LEASE_FAILOVR".into(), "1s".into())]);
        layers.set("", "3".into(), Source::Default);
        let text: Vec<_> = layers.problems.iter().map(ToString::to_string).collect();
        assert_eq!(text.len(), 6, "{text:?}");
        assert_eq!(text.iter().filter(|t| t.starts_with("\"\" = ")).count(), 2);
        assert!(text.iter().any(|t| t.contains("did you mean `stream.name`")));
        assert!(text.iter().any(|t| t.contains("did you mean `lease.failover`")));
        assert!(text.iter().any(|t| t.starts_with("lease.max")));
    }

    #[test]
    fn broken_toml_names_file_and_line() {
        let mut layers = Layers::default();
        layers.file("c.toml", "[stream\n");
        let problem = layers.problems[0].to_string();
        assert!(problem.contains("c.toml") && problem.contains("line 1"), "{problem}");
    }
}
