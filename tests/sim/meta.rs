//! The simulation itself: one thread, no sockets, no files.

use std::collections::BTreeMap;
use std::path::Path;

use crate::fleet::Fleet;
use crate::worker::fleet_watched;

fn entries(dir: &str) -> BTreeMap<String, String> {
    let listed = std::fs::read_dir(dir).unwrap().filter_map(Result::ok);
    let named = listed.map(|e| (e.file_name().to_string_lossy().into_owned(), e.path()));
    let target = |path: &Path| {
        let link = std::fs::read_link(path).unwrap_or_default();
        link.to_string_lossy().into_owned()
    };
    named
        .map(|(name, path)| (name, target(&path)))
        // The listing itself holds a descriptor while it is read.
        .filter(|(_, target)| !target.contains("/proc/"))
        .collect()
}

/// Run alone in a process of its own by the test below: other tests have threads too.
#[test]
#[ignore = "run by a_run_has_one_thread_and_no_socket"]
fn alone() {
    let threads = || entries("/proc/self/task").len();
    let (threads_before, files_before) = (threads(), entries("/proc/self/fd"));
    let mut effects = 0;
    for seed in 0..3 {
        let outcome = fleet_watched(&Fleet::draw(seed), || {
            assert_eq!(threads(), threads_before, "threads during the run of seed {seed}");
            let files = entries("/proc/self/fd");
            assert_eq!(files, files_before, "descriptors during the run of seed {seed}");
        });
        effects += outcome.report.effects.len();
    }
    assert!(effects > 100, "the fleets did something");
    println!("alone: fine");
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_has_one_thread_and_no_socket() {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "meta::alone", "--ignored", "--nocapture", "--test-threads=1"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && told.contains("alone: fine"), "{told}");
}
