//! A type's name means one thing in the whole tree.

use std::collections::BTreeMap;

/// The name a line of code defines, if it defines a type at the top of a file.
fn defined(line: &str) -> Option<&str> {
    let line = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(") ")?.1,
        Some(rest) => rest.trim_start(),
        None => line,
    };
    let rest = ["struct ", "enum ", "trait ", "type "].iter().find_map(|w| line.strip_prefix(w))?;
    rest.split(|c: char| !c.is_alphanumeric()).next()
}

#[test]
fn a_type_name_means_one_thing() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in crate::layering::house() {
        for name in file.code.lines().filter_map(defined) {
            places.entry(name.to_owned()).or_default().push(file.name.clone());
        }
    }
    assert!(places.len() > 300, "only {} types found", places.len());
    let twice: Vec<_> = places.into_iter().filter(|(_, files)| files.len() > 1).collect();
    assert_eq!(twice, [], "give one of them another name");
}

#[test]
fn definitions_are_found() {
    assert_eq!(defined("pub(in crate::cli) struct Options<'a> {"), Some("Options"));
    assert_eq!(defined("enum Kind {"), Some("Kind"));
    assert_eq!(defined("pub type Item = BTreeMap<String, Attr>;"), Some("Item"));
    assert_eq!(defined("    type Error = BoxError;"), None);
    assert_eq!(defined("fn structure() {}"), None);
}
