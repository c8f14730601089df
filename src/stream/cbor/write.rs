//! Writes requests.

use super::major::{MAP, TEXT, UNSIGNED};

/// The body of a request.
pub fn request(arn: &str, iterator: &str, limit: i32) -> Vec<u8> {
    let mut body = Vec::with_capacity(64 + arn.len() + iterator.len());
    put_head(&mut body, MAP, 3);
    for (name, text) in [("StreamARN", arn), ("ShardIterator", iterator)] {
        put_text(&mut body, name);
        put_text(&mut body, text);
    }
    put_text(&mut body, "Limit");
    put_head(&mut body, UNSIGNED, usize::try_from(limit).unwrap_or(1));
    body
}

fn put_text(to: &mut Vec<u8>, text: &str) {
    put_head(to, TEXT, text.len());
    to.extend_from_slice(text.as_bytes());
}

pub(super) fn put_head(to: &mut Vec<u8>, major: u8, value: usize) {
    let major = major << 5;
    if let Ok(value) = u8::try_from(value) {
        if value < 24 {
            to.push(major | value);
        } else {
            to.extend([major | 24, value]);
        }
    } else if let Ok(value) = u16::try_from(value) {
        to.push(major | 25);
        to.extend(value.to_be_bytes());
    } else {
        to.push(major | 27);
        to.extend((value as u64).to_be_bytes());
    }
}
