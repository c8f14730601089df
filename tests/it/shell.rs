//! Completions and manual pages, read by the programs they are for where those are installed.

use std::fs;
use std::process::{Command, Stdio};

use crate::support::{catchment, stderr};

fn printed(arguments: &[&str]) -> String {
    let output = catchment(arguments, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Has a shell read a file without running it; `None` where there is no such shell.
fn parses(shell: &str, file: &std::path::Path) -> Option<bool> {
    let status = Command::new(shell).arg("-n").arg(file).stderr(Stdio::null()).status();
    status.ok().map(|status| status.success())
}

#[test]
fn completions_parse_and_know_the_commands() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let text = printed(&["completions", shell]);
        for word in ["iam-policy", "healthcheck", "rewind", "completions"] {
            assert!(text.contains(word), "{shell}: {word}");
        }
        let file = dir.path().join(shell);
        fs::write(&file, &text).unwrap();
        match parses(shell, &file) {
            Some(good) => assert!(good, "{shell} cannot read it"),
            None => println!("SKIPPED: there is no {shell}"),
        }
    }
    assert_eq!(catchment(&["completions", "powershell"], &[]).status.code(), Some(2));
}

#[test]
fn bash_completes_a_command_and_its_flags() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("completions");
    fs::write(&file, printed(&["completions", "bash"])).unwrap();
    let complete = |words: &str, last: usize| {
        let script = format!(
            ". '{}'; COMP_WORDS=({words}); COMP_CWORD={last}; \
             _catchment catchment \"${{COMP_WORDS[{last}]}}\" \"\"; echo \"${{COMPREPLY[*]}}\"",
            file.display()
        );
        let output = Command::new("bash").args(["-c", &script]).output().ok()?;
        Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    };
    let Some(found) = complete("catchment hea", 1) else {
        println!("SKIPPED: there is no bash");
        return;
    };
    assert_eq!(found, "healthcheck");
    assert_eq!(complete("catchment config print --js", 3).unwrap(), "--json");
}

#[test]
fn there_is_a_manual_page_for_every_command() {
    let whole = printed(&["man"]);
    assert!(whole.contains(".TH catchment 1") && whole.contains("leases"), "{whole}");
    let one = printed(&["man", "leases", "rewind"]);
    assert!(one.contains(".TH catchment-leases-rewind 1"), "{one}");
    let output = catchment(&["man", "leases", "rewnd"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("there are: list, show"), "{}", stderr(&output));
    let dir = tempfile::tempdir().unwrap();
    printed(&["man", "--dir", dir.path().to_str().unwrap()]);
    for page in ["catchment.1", "catchment-config-check.1", "catchment-leases-rewind.1"] {
        assert!(dir.path().join(page).exists(), "{page}");
    }
    assert_eq!(catchment(&["man", "--dir", "/does/not/exist"], &[]).status.code(), Some(2));
}
