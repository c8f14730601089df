//! ◆ Text that is part of a larger buffer.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

/// UTF-8 text as a slice of shared bytes: taking a part of a reply copies and allocates nothing.
///
/// It keeps the whole buffer alive, so it is for what travels with its buffer and not for what
/// outlives it.
#[derive(Clone, PartialEq, Eq)]
pub struct Text(Bytes);

impl Text {
    /// Wraps bytes; `None` if they are not UTF-8.
    pub fn new(bytes: Bytes) -> Option<Self> {
        std::str::from_utf8(&bytes).is_ok().then_some(Self(bytes))
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        // Checked when it was made; checked again because the alternative is unsafe code.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_a_slice_of_its_buffer() {
        let buffer = Bytes::from_static("a näme".as_bytes());
        let text = Text::new(buffer.slice(2..)).unwrap();
        assert_eq!(&*text, "näme");
        assert_eq!(text.as_ptr(), buffer[2..].as_ptr());
        assert_eq!(text, Text::from("näme"));
        assert!(Text::new(buffer.slice(..4)).is_none(), "a character was cut in two");
    }
}
