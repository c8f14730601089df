//! Who imports whom, read from the text of the source.

use std::collections::{BTreeMap, BTreeSet};

/// A file of `src`: its path from there, and its code before the tests, without comments.
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) code: String,
}

impl Source {
    pub(crate) fn new(name: &str, text: &str) -> Self {
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let text = text.split("#[cfg(test)]\npub(crate) mod tests").next().unwrap_or_default();
        let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        Self { name: name.to_owned(), code: lines.collect::<Vec<_>>().join("\n") }
    }

    /// The folder of `src`, or the name of a file beside the folders.
    pub(crate) fn folder(&self) -> &str {
        self.name.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// `["delivery", "batch"]`; a `mod.rs` is its folder.
    fn module(&self) -> Vec<&str> {
        let mut parts: Vec<&str> = self.name.trim_end_matches(".rs").split('/').collect();
        if matches!(parts.last(), Some(&"mod" | &"lib" | &"main")) {
            parts.pop();
        }
        parts
    }

    /// Every path of the code: those of `use` declarations taken apart, and those that stand inline.
    fn paths(&self) -> Vec<Vec<String>> {
        let mut paths = Vec::new();
        let mut rest = self.code.as_str();
        while let Some((before, after)) = split_use(rest) {
            inline(before, &mut paths);
            let (tree, behind) = after.split_once(';').unwrap_or((after, ""));
            expand(tree, &[], &mut paths);
            rest = behind;
        }
        inline(rest, &mut paths);
        paths
    }
}

/// The text before and after the next `use ` that begins a declaration.
fn split_use(text: &str) -> Option<(&str, &str)> {
    let mut from = 0;
    while let Some(at) = text[from..].find("use ").map(|at| at + from) {
        let line = text[..at].rsplit('\n').next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with("pub") {
            return Some((&text[..at], &text[at + 4..]));
        }
        from = at + 4;
    }
    None
}

/// `a::{b::C, d}` into `a::b::C` and `a::d`.
fn expand(tree: &str, prefix: &[String], paths: &mut Vec<Vec<String>>) {
    let names = |path: &str| -> Vec<String> {
        let parts = path.split("::").map(|part| part.split_whitespace().next().unwrap_or_default());
        parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    let tree = tree.trim();
    let Some((head, body)) = tree.split_once('{') else {
        paths.push([prefix, &names(tree)].concat());
        return;
    };
    let prefix = [prefix, &names(head)].concat();
    let (mut depth, mut begin) = (0, 0);
    let body = body.trim_end();
    let body = body.strip_suffix('}').unwrap_or(body);
    for (at, letter) in body.char_indices().chain([(body.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let item = body[begin..at].trim();
                if !item.is_empty() {
                    expand(item, &prefix, paths);
                }
                begin = at + 1;
            }
            _ => {}
        }
    }
}

/// `crate::…`, `super::…` and `self::…` that stand in the code.
fn inline(code: &str, paths: &mut Vec<Vec<String>>) {
    for root in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(root) {
            let word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            let begins = !code[..at].ends_with(word);
            let path = code[at..].split(|c| !word(c)).next().unwrap_or_default();
            if begins {
                paths.push(path.split("::").filter(|p| !p.is_empty()).map(str::to_owned).collect());
            }
        }
    }
}

/// The pairs of files of which the first imports something of the second.
pub(crate) fn imports(house: &[Source]) -> Vec<(&Source, &Source)> {
    let modules: BTreeMap<Vec<&str>, &Source> =
        house.iter().filter(|f| !f.module().is_empty()).map(|f| (f.module(), f)).collect();
    let mut found = BTreeMap::new();
    for file in house {
        for path in file.paths() {
            let mut at: Vec<&str> = file.module();
            let mut path = path.iter().map(String::as_str).peekable();
            match path.peek().copied() {
                Some("crate") => {
                    path.next();
                    at.clear();
                }
                Some("self") => {
                    path.next();
                }
                Some("super") => {
                    while path.next_if_eq(&"super").is_some() {
                        at.pop();
                    }
                }
                // A module declared here; anything else is another crate.
                Some(child) if modules.contains_key(&[&at[..], &[child]].concat()) => {}
                _ => continue,
            }
            at.extend(path);
            while !at.is_empty() && !modules.contains_key(&at) {
                at.pop();
            }
            if let Some(other) = modules.get(&at)
                && other.name != file.name
            {
                found.insert((file.name.as_str(), other.name.as_str()), (file, *other));
            }
        }
    }
    found.into_values().collect()
}

/// Sets of files that import each other, directly or through others, in order of their names.
pub(crate) fn circles(house: &[Source]) -> Vec<Vec<String>> {
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, to) in imports(house) {
        next.entry(&from.name).or_default().insert(&to.name);
    }
    let reach = |start: &str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![start]);
        while let Some(file) = open.pop() {
            for other in next.get(file).into_iter().flatten() {
                if seen.insert(*other) {
                    open.push(other);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&str, BTreeSet<&str>> = next.keys().map(|f| (*f, reach(f))).collect();
    let mut circles = BTreeSet::new();
    for (file, others) in &reached {
        let ring = |other: &&&str| reached.get(**other).is_some_and(|back| back.contains(file));
        let circle: Vec<String> = others.iter().filter(ring).map(|f| (*f).to_owned()).collect();
        if !circle.is_empty() {
            circles.insert(circle);
        }
    }
    circles.into_iter().collect()
}
