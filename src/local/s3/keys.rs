//! Keys as paths: which are allowed, and which exist.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use s3s::{S3Result, s3_error};

/// Longest file name common file systems take.
const MAX_SEGMENT: usize = 255;

/// One row of a listing.
pub(super) struct Listed {
    pub(super) key: String,
    pub(super) size: u64,
    pub(super) modified: SystemTime,
}

/// Collects the files below `folder` whose key starts with `prefix`; `base` is the folder's key.
pub(super) fn walk(
    folder: &Path,
    base: &str,
    prefix: &str,
    found: &mut Vec<Listed>,
) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        // Deleted while we looked.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let Ok(about) = entry.metadata() else {
            continue;
        };
        let key = format!("{base}{name}");
        if about.is_dir() {
            let below = format!("{key}/");
            if below.starts_with(prefix) || prefix.starts_with(&below) {
                walk(&entry.path(), &below, prefix, found)?;
            }
        } else if about.is_file() && key.starts_with(prefix) {
            found.push(Listed { key, size: about.len(), modified: about.modified()? });
        }
    }
    Ok(())
}

/// The path of a key below its bucket. Only keys that are exactly one relative path get one, so
/// nothing can leave the directory.
pub(super) fn relative_path(key: &str) -> S3Result<PathBuf> {
    let problem = if key.len() > 1024 {
        Some("is longer than 1024 bytes")
    } else if key.contains('\0') {
        Some("holds a NUL character")
    } else {
        key.split('/').find_map(|segment| match segment {
            "" => Some("has an empty path segment"),
            "." | ".." => Some("has a `.` or `..` path segment"),
            long if long.len() > MAX_SEGMENT => Some("has a path segment over 255 bytes"),
            _ => None,
        })
    };
    match problem {
        None => Ok(PathBuf::from(key)),
        Some(problem) => Err(s3_error!(
            InvalidArgument,
            "The key `{}` {problem}; objects are plain files here, choose another key",
            key.escape_debug()
        )),
    }
}

pub(super) fn conflict(key: &str) -> s3s::S3Error {
    s3_error!(
        InvalidArgument,
        "The key `{key}` is a folder of another object, or lies below one; objects are plain files here, choose another key"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_keys_have_no_path() {
        let long = "x".repeat(1025);
        let segment = "x".repeat(256);
        for key in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../x",
            "a/../../x",
            "a/./b",
            "a//b",
            "a/",
            "a\0b",
            &long,
            &segment,
        ] {
            assert!(relative_path(key).is_err(), "{key:?}");
        }
        for key in ["a", "a/b.c", "...", "a/..b", ".hidden", "ü/日本", "a\\..\\b"] {
            assert_eq!(relative_path(key).unwrap(), Path::new(key));
        }
    }

    proptest! {
        #[test]
        fn no_key_leaves_the_directory(key in "[a./\\\\\0ü]{0,12}") {
            if let Ok(path) = relative_path(&key) {
                prop_assert!(path.components().all(|c| matches!(c, std::path::Component::Normal(_))));
                prop_assert_eq!(path.to_str().unwrap(), key);
            }
        }
    }
}
