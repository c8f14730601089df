//! The walls of the architecture, held by reading the source.
//!
//! A file whose module comment starts with ◆ decides and does nothing else: no async, no runtime,
//! no AWS type, no clock. Only `src/aws` names the SDK; only `src/task.rs` spawns.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

/// Name and text of every source file that is not a test.
fn all() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    files
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap().display().to_string();
            (name, fs::read_to_string(path).unwrap())
        })
        .filter(|(name, _)| !name.contains("/tests"))
        .collect()
}

/// The code before the tests, without comments.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines = code.lines().filter(|l| !l.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn decisions_are_pure() {
    let mut pure = 0;
    for (name, text) in all() {
        if !text.starts_with("//! ◆") {
            continue;
        }
        pure += 1;
        for word in [
            "async",
            "tokio",
            "aws_sdk",
            "aws_smithy",
            ".now()",
            "Clock",
            "Jitter",
            "std::fs",
            "std::net::Tcp",
        ] {
            assert!(!code(&text).contains(word), "{name} decides, and may not mention `{word}`");
        }
    }
    assert!(pure >= 15, "only {pure} files are marked ◆");
}

/// What to deliver again, where to go back to, and whether ranges tile is decided without a stream.
#[test]
fn replay_and_verify_decide_in_pure_files() {
    let all = all();
    for name in [
        "replay/plan.rs",
        "replay/progress.rs",
        "lease/rewind.rs",
        "stream/bound.rs",
        "verify/tiling.rs",
    ] {
        let found = all.iter().find(|(file, _)| file == name);
        assert!(found.is_some_and(|(_, text)| text.starts_with("//! ◆")), "{name} is not ◆");
    }
}

#[test]
fn only_the_aws_folder_names_the_sdk() {
    for (name, text) in all() {
        let exempt = name.starts_with("aws/");
        assert!(
            exempt || !code(&text).contains("aws_sdk_"),
            "{name} names the AWS SDK; put the call into src/aws"
        );
    }
}

#[test]
fn only_the_command_line_prints_and_only_tasks_spawn() {
    for (name, text) in all() {
        let code = code(&text);
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
    for (name, text) in all() {
        let lines = code(&text).lines().count();
        assert!(lines <= 600, "{name} has {lines} lines before its tests; split it");
    }
}
