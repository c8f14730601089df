//! Object keys that an event may name.

use std::fmt;

use serde::Serialize;

/// Every upload lives below this prefix.
pub const KEY_PREFIX: &str = "uploads/";

/// S3's limit for a key, in bytes.
pub const MAX_KEY_BYTES: usize = 1024;

/// A validated object key below [`KEY_PREFIX`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct FileKey(String);

impl FileKey {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Why a key is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Longer than S3 takes.
    #[error("the key is longer than {MAX_KEY_BYTES} bytes")]
    TooLong,
    /// Absolute, or below another prefix.
    #[error("the key does not begin with `{KEY_PREFIX}`")]
    WrongPrefix,
    /// A `.` or `..` segment.
    #[error("the key has a `.` or `..` segment")]
    DotSegment,
    /// `//`, or nothing after the last slash.
    #[error("the key has an empty segment")]
    EmptySegment,
    /// A control, formatting or reserved character, or a backslash.
    #[error("the key has a character that is not allowed: U+{0:04X}")]
    BadCharacter(u32),
}

/// Checks an object key named by an event.
///
/// # Errors
/// [`KeyError`] for a key outside `uploads/`, with dot or empty segments, with control or invisible
/// formatting characters or a backslash, or longer than 1,024 bytes.
pub fn validate_file_key(key: &str) -> Result<FileKey, KeyError> {
    if key.len() > MAX_KEY_BYTES {
        return Err(KeyError::TooLong);
    }
    if let Some(bad) = key.chars().find(|&c| hostile(c)) {
        return Err(KeyError::BadCharacter(bad.into()));
    }
    let rest = key.strip_prefix(KEY_PREFIX).ok_or(KeyError::WrongPrefix)?;
    for segment in rest.split('/') {
        match segment {
            "" => return Err(KeyError::EmptySegment),
            "." | ".." => return Err(KeyError::DotSegment),
            _ => {}
        }
    }
    Ok(FileKey(key.to_owned()))
}

/// Characters that break listings (XML 1.0), terminals, or a path on some file system.
fn hostile(c: char) -> bool {
    c.is_control()
        || c == '\\'
        || matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}')
        || matches!(c, '\u{FEFF}' | '\u{FFFE}' | '\u{FFFF}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys() {
        for good in
            ["uploads/a", "uploads/a.txt", "uploads/a/b/c.txt", "uploads/ä ö.txt", "uploads/..a"]
        {
            assert_eq!(validate_file_key(good).unwrap().as_str(), good);
        }
        let longest = format!("uploads/{}", "x".repeat(1016));
        assert!(validate_file_key(&longest).is_ok());
        for (bad, why) in [
            ("", KeyError::WrongPrefix),
            ("/uploads/a", KeyError::WrongPrefix),
            ("/etc/passwd", KeyError::WrongPrefix),
            ("uploads", KeyError::WrongPrefix),
            ("Uploads/a", KeyError::WrongPrefix),
            ("errors/a", KeyError::WrongPrefix),
            ("../uploads/a", KeyError::WrongPrefix),
            ("uploads/", KeyError::EmptySegment),
            ("uploads//a", KeyError::EmptySegment),
            ("uploads/a/", KeyError::EmptySegment),
            ("uploads/../a", KeyError::DotSegment),
            ("uploads/a/..", KeyError::DotSegment),
            ("uploads/./a", KeyError::DotSegment),
            ("uploads/a\n", KeyError::BadCharacter(10)),
            ("uploads/\0", KeyError::BadCharacter(0)),
            ("uploads/\u{7f}", KeyError::BadCharacter(0x7f)),
            ("uploads/\u{85}", KeyError::BadCharacter(0x85)),
            ("uploads/gpj\u{202e}exe", KeyError::BadCharacter(0x202e)),
            ("uploads/..\\a", KeyError::BadCharacter(0x5c)),
            (&format!("{longest}x"), KeyError::TooLong),
        ] {
            assert_eq!(validate_file_key(bad), Err(why), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_key_stays_below_its_prefix(key in "(uploads/)?[./a\\\\\u{0}-\u{1f}]{0,12}") {
            if let Ok(key) = validate_file_key(&key) {
                prop_assert!(key.as_str().starts_with(KEY_PREFIX));
                prop_assert!(!key.as_str().split('/').any(|s| matches!(s, "" | "." | "..")));
                prop_assert!(!key.as_str().chars().any(char::is_control));
            }
        }
    }
}
