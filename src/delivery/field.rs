//! One field of a JSON record, found without parsing the rest of it.
//!
//! The record is walked from its beginning to the field and no further: values on the way are
//! skipped, strings from quote to quote and nested values by their depth, and what follows is not
//! looked at. So a broken record may still have a readable field; whoever parses it later says so.
//! Of a name that stands twice, the first counts.

use std::borrow::Cow;

use memchr::memchr2;

/// Deepest path that makes sense in a key.
const MAX_DEPTH: usize = 16;

/// Where a field stands: the names of the objects around it, outermost first, and its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(Vec<String>);

/// Why there is no value to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// No such field; or it is null, or an empty string.
    Absent,
    /// The record is no JSON up to there, or the value is an object or an array.
    Unusable,
}

impl Path {
    /// Parses `a.b.c`, also as jq (`.a.b.c`) and JSONPath (`$.a.b.c`) write it. A dot that belongs to
    /// a name is written `\.`.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let body = text.strip_prefix('$').unwrap_or(text);
        let body = body.strip_prefix('.').unwrap_or(body);
        let mut names = vec![String::new()];
        let mut letters = body.chars();
        while let Some(letter) = letters.next() {
            match (letter, names.last_mut()) {
                ('.', _) => names.push(String::new()),
                ('\\', Some(name)) => match letters.next() {
                    Some(escaped @ ('.' | '\\')) => name.push(escaped),
                    _ => return Err("a backslash stands before a dot or a backslash only"),
                },
                ('[' | ']' | '"' | '|' | '(' | ')' | ' ', _) => {
                    return Err("a field is a path of names such as `customer.id`, no expression");
                }
                (_, Some(name)) => name.push(letter),
                (_, None) => {}
            }
        }
        if names.iter().any(String::is_empty) {
            return Err("every name of a path has at least one letter, as in `customer.id`");
        }
        if names.len() > MAX_DEPTH {
            return Err("a path has 16 names at the most");
        }
        Ok(Self(names))
    }

    /// The value of this field as text: strings without quotes and escapes, numbers and booleans as
    /// they stand.
    ///
    /// # Errors
    /// [`Miss`]
    pub fn find<'a>(&self, json: &'a [u8]) -> Result<Cow<'a, str>, Miss> {
        let mut walk = Walk { json, at: 0 };
        for name in &self.0 {
            walk.enter(name)?;
        }
        walk.scalar()
    }
}

struct Walk<'a> {
    json: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    /// The next byte that is no white space; it is not taken.
    fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.json.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    fn take(&mut self, byte: u8) -> Result<(), Miss> {
        if self.peek() != Some(byte) {
            return Err(Miss::Unusable);
        }
        self.at += 1;
        Ok(())
    }

    /// Goes into the object that begins here, up to the value of `name`.
    fn enter(&mut self, name: &str) -> Result<(), Miss> {
        match self.peek() {
            Some(b'{') => self.at += 1,
            // A scalar or an array has no fields; anything else is no JSON.
            Some(_) => return self.skip().and(Err(Miss::Absent)),
            None => return Err(Miss::Unusable),
        }
        if self.peek() == Some(b'}') {
            return Err(Miss::Absent);
        }
        loop {
            let key = self.string()?;
            self.take(b':')?;
            if is(key, name) {
                return Ok(());
            }
            self.skip()?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => return Err(Miss::Absent),
                _ => return Err(Miss::Unusable),
            }
        }
    }

    /// A string with its quotes.
    fn string(&mut self) -> Result<&'a [u8], Miss> {
        self.take(b'"')?;
        let begin = self.at - 1;
        loop {
            let rest = self.json.get(self.at..).ok_or(Miss::Unusable)?;
            let next = memchr2(b'"', b'\\', rest).ok_or(Miss::Unusable)?;
            if rest[next] == b'"' {
                self.at += next + 1;
                return Ok(&self.json[begin..self.at]);
            }
            self.at += next + 2;
        }
    }

    /// A number, `true`, `false` or `null`; something has to follow it, or it may be broken off.
    fn literal(&mut self) -> Result<&'a [u8], Miss> {
        let rest = &self.json[self.at..];
        let end = |b: &u8| matches!(b, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r');
        let length = rest.iter().position(end).ok_or(Miss::Unusable)?;
        self.at += length;
        let text = &rest[..length];
        let number = |b: &u8| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E');
        let known = matches!(text, b"null" | b"true" | b"false");
        if known || (text.iter().any(u8::is_ascii_digit) && text.iter().all(number)) {
            Ok(text)
        } else {
            Err(Miss::Unusable)
        }
    }

    /// Passes a value.
    fn skip(&mut self) -> Result<(), Miss> {
        let mut depth = 0_usize;
        loop {
            match self.peek().ok_or(Miss::Unusable)? {
                b'"' => {
                    self.string()?;
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                b',' | b':' if depth > 0 => self.at += 1,
                _ => {
                    self.literal()?;
                }
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    fn scalar(&mut self) -> Result<Cow<'a, str>, Miss> {
        match self.peek() {
            Some(b'"') => {
                let quoted = self.string()?;
                let text = &quoted[1..quoted.len() - 1];
                let value = if text.contains(&b'\\') {
                    serde_json::from_slice(quoted).map(Cow::Owned).map_err(|_| Miss::Unusable)?
                } else {
                    Cow::Borrowed(str::from_utf8(text).map_err(|_| Miss::Unusable)?)
                };
                if value.is_empty() { Err(Miss::Absent) } else { Ok(value) }
            }
            Some(b'{' | b'[') | None => Err(Miss::Unusable),
            Some(_) => match self.literal()? {
                b"null" => Err(Miss::Absent),
                text => str::from_utf8(text).map(Cow::Borrowed).map_err(|_| Miss::Unusable),
            },
        }
    }
}

/// Is this quoted key that name?
fn is(quoted: &[u8], name: &str) -> bool {
    let raw = &quoted[1..quoted.len() - 1];
    if raw.contains(&b'\\') {
        return serde_json::from_slice::<String>(quoted).is_ok_and(|key| key == name);
    }
    raw == name.as_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn find<'a>(json: &'a str, path: &str) -> Result<Cow<'a, str>, Miss> {
        Path::parse(path).unwrap().find(json.as_bytes())
    }

    #[test]
    fn fields_are_found_wherever_they_stand() {
        let json = r#" { "a" : {"x":[1,{"id":"no"}],"id":"yes"}, "s\"é" : "q\"\u00e9", "n": -1.5e3 ,
            "t":true,"z":null,"e":"","o":{}, "a.b":"dot", "l" : 7 } "#;
        for (path, value) in [
            ("a.id", "yes"),
            (".a.id", "yes"),
            ("$.a.id", "yes"),
            ("n", "-1.5e3"),
            ("t", "true"),
            (r"a\.b", "dot"),
            ("l", "7"),
            ("s\\\\é", "none"),
        ] {
            let found = find(json, path);
            assert_eq!(found.as_deref().unwrap_or("none"), value, "{path}");
        }
        for (path, miss) in [
            ("z", Miss::Absent),
            ("e", Miss::Absent),
            ("x", Miss::Absent),
            ("a.id.deeper", Miss::Absent),
            ("o.x", Miss::Absent),
            ("o", Miss::Unusable),
            ("a", Miss::Unusable),
        ] {
            assert_eq!(find(json, path), Err(miss), "{path}");
        }
    }

    #[test]
    fn what_is_no_json_has_no_fields() {
        for text in
            ["", "  ", "{", "{\"a", "{\"a\":", "{\"a\":1", "{\"a\":tru}", "{\"a\" 1}", "x{}"]
        {
            assert_eq!(find(text, "a"), Err(Miss::Unusable), "{text}");
        }
        // The first of two, and nothing behind it is looked at.
        assert_eq!(find("{\"a\":1,\"a\":2,}}", "a").as_deref(), Ok("1"));
        for text in ["[1]", "\"a\"", "12 "] {
            assert_eq!(find(text, "a"), Err(Miss::Absent), "{text}");
        }
    }

    #[test]
    fn paths_that_are_none_are_refused() {
        for text in ["", ".", "a..b", "a.", "a b", "a[0]", ".a | .b", "a\\x"] {
            assert!(Path::parse(text).is_err(), "{text}");
        }
        assert!(Path::parse(&["a"; 17].join(".")).is_err());
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-c\"\\\\\u{e9}{}\\[\\],: \n]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[ab\"\\\\]{1,2}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_a_full_parser(
            value in value(), names in prop::collection::vec("[ab\"\\\\]{1,2}", 1..3), pretty: bool,
        ) {
            let json = if pretty {
                serde_json::to_string_pretty(&value).unwrap() + "\n"
            } else {
                format!("{value} ")
            };
            let mut expected = Some(&value);
            for name in &names {
                expected = expected.and_then(|v| v.as_object()).and_then(|map| map.get(name));
            }
            let expected = match expected {
                Some(Value::Object(_) | Value::Array(_)) => Err(Miss::Unusable),
                None | Some(Value::Null) => Err(Miss::Absent),
                Some(Value::String(text)) if text.is_empty() => Err(Miss::Absent),
                Some(Value::String(text)) => Ok(text.clone()),
                Some(other) => Ok(other.to_string()),
            };
            let found = Path(names).find(json.as_bytes()).map(Cow::into_owned);
            prop_assert_eq!(found, expected, "{}", json);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in "[{}\\[\\]\":,\\\\an1 ]{0,40}") {
            let _ = Path::parse("a.n").unwrap().find(bytes.as_bytes());
        }
    }
}
