//! The walls of the architecture, held by reading the source.
//!
//! Folders stand on floors and import downward only; no two files import each other; folders that
//! decide are pure; only `src/aws` names the AWS SDK; only `src/task.rs` spawns.

pub(crate) mod graph;

use std::fs;
use std::path::{Path, PathBuf};

use graph::{Source, circles, imports};

/// From the ground up: a folder imports from itself and from the floors below it. A name is a
/// folder of `src`, or a file beside the folders.
const FLOORS: &[&[&str]] = &[
    &["ids", "fault", "clock", "task", "shutdown", "mutant", "cost", "heap", "upload"],
    &["metrics", "stream", "budget"],
    &["delivery"],
    &["checkpoint", "config"],
    &["lease", "iam"],
    &["aws"],
    &["replay", "verify", "front_door"],
    &["worker", "local"],
    &["telemetry"],
    &["cli"],
];

/// Folders that decide and do nothing else.
const PURE: &[&str] = &["upload", "stream", "delivery", "checkpoint", "lease", "config"];

/// What a file that decides may not mention: waiting, the runtime, AWS, time, chance, the outside.
const IMPURE: &[&str] = &[
    "async",
    ".await",
    "tokio",
    "aws_sdk",
    "aws_smithy",
    ".now()",
    "Clock",
    "Jitter",
    "fastrand",
    "SystemTime",
    "Instant",
    "std::fs",
    "std::net::Tcp",
];

fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// Every source file that is not a test.
pub(crate) fn house() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    let source = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap().display().to_string();
        Source::new(&name, &fs::read_to_string(path).unwrap())
    };
    let mut house: Vec<Source> = files.into_iter().map(source).collect();
    house.retain(|file| !file.name.contains("/tests"));
    house
}

fn floor(folder: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&folder))
}

/// Imports of a folder from one that is not below it.
fn upward(house: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for (from, to) in imports(house) {
        let (here, there) = (from.folder(), to.folder());
        // The crate's root and the programs stand above everything.
        let Some(own) = floor(here) else { continue };
        if here != there && floor(there).is_none_or(|other| other >= own) {
            found.push(format!("{} imports {}, which is not below it", from.name, to.name));
        }
    }
    found
}

/// Words in folders that decide which only a shell may use.
fn impure(house: &[Source]) -> Vec<String> {
    let pure = house.iter().filter(|file| PURE.contains(&file.folder()));
    let words = |file: &Source| {
        let used = IMPURE.iter().filter(|word| file.code.contains(**word));
        used.map(|word| format!("{} decides, and may not mention `{word}`", file.name))
            .collect::<Vec<_>>()
    };
    pure.flat_map(words).collect()
}

/// Files outside `src/aws` that name the AWS SDK.
fn strangers(house: &[Source]) -> Vec<String> {
    let outside = house.iter().filter(|file| file.folder() != "aws");
    let named = outside.filter(|file| file.code.contains("aws_sdk_"));
    named
        .map(|file| format!("{} names the AWS SDK; put the call into src/aws", file.name))
        .collect()
}

#[test]
fn folders_import_downward() {
    let house = house();
    assert_eq!(upward(&house), Vec::<String>::new());
    let folders: Vec<&str> = house.iter().map(Source::folder).collect();
    for name in FLOORS.iter().copied().flatten() {
        assert!(folders.contains(name), "`{name}` stands on a floor and does not exist");
    }
    let homeless =
        folders.iter().find(|name| floor(name).is_none() && !["main", "lib", "bin"].contains(name));
    assert_eq!(homeless, None, "stands on no floor");
}

#[test]
fn no_two_files_import_each_other() {
    assert_eq!(circles(&house()), Vec::<Vec<String>>::new());
}

#[test]
fn decisions_are_pure() {
    assert_eq!(impure(&house()), Vec::<String>::new());
}

#[test]
fn only_the_aws_folder_names_the_sdk() {
    assert_eq!(strangers(&house()), Vec::<String>::new());
}

/// Each wall notices who walks through it.
#[test]
fn the_walls_hold() {
    let house = |files: &[(&str, &str)]| -> Vec<Source> {
        files.iter().map(|(name, text)| Source::new(name, text)).collect()
    };
    let lease = ("lease/write.rs", "");
    let up = house(&[lease, ("stream/scan.rs", "use crate::{ids, lease::{write::Update}};")]);
    assert_eq!(upward(&up), ["stream/scan.rs imports lease/write.rs, which is not below it"]);
    let inline = house(&[lease, ("stream/scan.rs", "fn f() -> crate::lease::write::Update {}")]);
    assert_eq!(upward(&inline).len(), 1);
    assert_eq!(upward(&house(&[lease, ("worker/view.rs", "use crate::lease::write;")])), [""; 0]);
    let aside =
        house(&[("metrics/table.rs", ""), ("stream/scan.rs", "use crate::metrics::table;")]);
    assert_eq!(upward(&aside).len(), 1, "the same floor is not below");
    for (text, found) in [
        ("async fn f() {}", "async"),
        ("fn f(clock: &Clock) { clock.now() }", ".now()"),
        ("fn f() { x.await }", ".await"),
        ("use tokio::sync::Mutex;", "tokio"),
    ] {
        let told = impure(&house(&[("delivery/batch.rs", text)]));
        assert!(told.iter().any(|line| line.contains(found)), "{text}: {told:?}");
        assert_eq!(impure(&house(&[("worker/shard/mod.rs", text)])), [""; 0]);
    }
    assert_eq!(impure(&house(&[("lease/row.rs", "// async, as tokio says\n")])), [""; 0]);
    assert_eq!(strangers(&house(&[("cli/run.rs", "use aws_sdk_s3::Client;")])).len(), 1);
    assert_eq!(strangers(&house(&[("aws/s3.rs", "use aws_sdk_s3::Client;")])), [""; 0]);
    let circle = house(&[
        ("delivery/a.rs", "use crate::delivery::b::B;"),
        ("delivery/b.rs", "use super::a::A;"),
        ("delivery/mod.rs", "pub mod a;\npub mod b;"),
    ]);
    assert_eq!(circles(&circle), [["delivery/a.rs", "delivery/b.rs"]]);
    let child = house(&[
        ("config/mod.rs", "mod raw;\nuse raw::Layers;"),
        ("config/raw.rs", "use super::X;"),
    ]);
    assert_eq!(circles(&child), [["config/mod.rs", "config/raw.rs"]]);
}

#[test]
fn only_the_command_line_prints_and_only_tasks_spawn() {
    for Source { name, code } in house() {
        assert!(!code.contains("tokio::spawn(") || name == "task.rs", "{name} spawns");
        let prints = code.contains("println!(") || code.contains("print!(");
        assert!(!prints || name.starts_with("cli/") || name.starts_with("bin/"), "{name} prints");
        assert!(
            !code.contains("tokio::select! {\n") || code.contains("biased;"),
            "{name}: select without `biased`"
        );
    }
}

#[test]
fn files_stay_small() {
    for Source { name, code } in house() {
        let lines = code.lines().count();
        assert!(lines <= 450, "{name} has {lines} lines before its tests; split it");
    }
}
