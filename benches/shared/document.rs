//! docs/PERFORMANCE.md, which benchmarks write between the marks of their parts.

use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

/// Where documents are.
pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// Replaces these parts, each by its name.
pub(crate) fn write(parts: &[(&str, String)]) -> Result<(), Box<dyn Error + Send + Sync>> {
    let path = folder().join("PERFORMANCE.md");
    let mut text = std::fs::read_to_string(&path)?;
    for (name, table) in parts {
        let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
        let from = text.find(&begin).ok_or(format!("no mark for {name}"))? + begin.len();
        let to = from + text[from..].find(&end).ok_or(format!("no end mark for {name}"))?;
        text.replace_range(from..to, &format!("{}\n\n{}\n", machine(), table.trim_end()));
    }
    std::fs::write(&path, text)?;
    println!("docs/PERFORMANCE.md is written");
    Ok(())
}

/// Where and when, in a line.
fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let git = Command::new("git").args(["log", "-1", "--format=%h"]).output();
    let commit = git.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    format!(
        "*{}, {cores} cores; commit {}.*",
        cpu.map_or("unknown CPU", |(_, name)| name.trim()),
        commit.ok().filter(|c| !c.is_empty()).as_deref().unwrap_or("unknown"),
    )
}
