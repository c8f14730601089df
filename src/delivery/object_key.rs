//! Object keys from a template, the shard and the range: never from a clock.
//!
//! Templates speak Firehose's dialect (`!{timestamp:yyyy/MM/dd/HH}`) and the short one of Kinesis
//! channels (`!{yyyy}/!{MM}`); Hive style is literal text around them
//! (`dt=!{timestamp:yyyy-MM-dd}/`). Times are UTC; which time, and what fields of a record mean for
//! its key, is `partition.rs`.

use std::fmt::Write;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::delivery::field::Path;
use crate::delivery::settings::Settings;
use crate::ids::ShardId;
use crate::stream::position::Position;

/// Longest value of a field in a key, bytes, escaped.
pub const MAX_VALUE: usize = 100;

/// Longest rendered prefix, bytes: of the 1,024 that S3 takes, it leaves room for the object name.
const MAX_PREFIX: usize = 512;

/// A parsed key template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<TemplatePart>,
    /// Fields of the record, in the order of [`TemplatePart::Field`].
    fields: Vec<Path>,
    granularity_ms: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum TemplatePart {
    Text(String),
    Time(TemplateField),
    Stream,
    Shard,
    Error,
    Field(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TemplateField {
    Year,
    Year2,
    Month,
    Day,
    DayOfYear,
    Hour,
    Minute,
    Second,
}

impl TemplateField {
    fn parse(letters: &str) -> Option<Self> {
        Some(match letters {
            "yyyy" => Self::Year,
            "yy" => Self::Year2,
            "MM" => Self::Month,
            "dd" => Self::Day,
            "DDD" => Self::DayOfYear,
            "HH" => Self::Hour,
            "mm" => Self::Minute,
            "ss" => Self::Second,
            _ => return None,
        })
    }

    fn granularity_ms(self) -> i64 {
        match self {
            Self::Year | Self::Year2 | Self::Month | Self::Day | Self::DayOfYear => 86_400_000,
            Self::Hour => 3_600_000,
            Self::Minute => 60_000,
            Self::Second => 1_000,
        }
    }

    fn write(self, to: &mut String, t: &DateTime) {
        // Writing to a String cannot fail.
        let _ = match self {
            Self::Year => write!(to, "{:04}", t.year()),
            Self::Year2 => write!(to, "{:02}", t.year().rem_euclid(100)),
            Self::Month => write!(to, "{:02}", t.month()),
            Self::Day => write!(to, "{:02}", t.day()),
            Self::DayOfYear => write!(to, "{:03}", t.day_of_year()),
            Self::Hour => write!(to, "{:02}", t.hour()),
            Self::Minute => write!(to, "{:02}", t.minute()),
            Self::Second => write!(to, "{:02}", t.second()),
        };
    }
}

/// A template that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
pub enum BadTemplate {
    /// `!{` without `}`.
    #[error("`!{{` at byte {0} is never closed by `}}`")]
    Unclosed(usize),
    /// Not one of ours.
    #[error(
        "`!{{{0}}}` is no known variable; known are !{{timestamp:PATTERN}}, !{{yyyy}}, !{{MM}}, \
         !{{dd}}, !{{HH}}, !{{mm}}, !{{stream}}, !{{shard}}, !{{field:PATH}}, and !{{error}} in the \
         error prefix"
    )]
    Unknown(String),
    /// Firehose has it, exactly-once forbids it.
    #[error("`!{{{0}}}` {1}")]
    Refused(String, &'static str),
    /// A date pattern letter we do not format.
    #[error(
        "time pattern letters `{0}` are not supported; use yyyy, yy, MM, dd, DDD, HH, mm, ss and \
         quote literal letters as 'T'"
    )]
    Letters(String),
    /// A field that cannot be one.
    #[error("`!{{field:{0}}}`: {1}")]
    Field(String, &'static str),
    /// The literal text cannot start an S3 key that every tool can read.
    #[error("{0}")]
    Text(&'static str),
}

impl Template {
    /// Parses a template; `errors` allows `!{error}`.
    ///
    /// # Errors
    /// [`BadTemplate`]
    pub fn parse(template: &str, errors: bool) -> Result<Self, BadTemplate> {
        let (mut parts, mut fields) = (Vec::new(), Vec::new());
        let mut rest = template;
        while let Some(start) = rest.find("!{") {
            text(&mut parts, &rest[..start]);
            let end = rest[start..]
                .find('}')
                .ok_or(BadTemplate::Unclosed(template.len() - rest.len() + start))?;
            let name = &rest[start + 2..start + end];
            match name.strip_prefix("field:") {
                Some(path) if !errors => {
                    let bad = |why| BadTemplate::Field(path.to_owned(), why);
                    parts.push(TemplatePart::Field(fields.len()));
                    fields.push(Path::parse(path).map_err(bad)?);
                }
                _ => variable(&mut parts, name, errors)?,
            }
            rest = &rest[start + end + 1..];
        }
        text(&mut parts, rest);
        let granularity_ms = parts
            .iter()
            .filter_map(
                |p| if let TemplatePart::Time(f) = p { Some(f.granularity_ms()) } else { None },
            )
            .min();
        let this = Self { parts, fields, granularity_ms };
        let (shard, value) = (ShardId::new("shardId-000000000000"), "v".repeat(MAX_VALUE));
        let values = vec![value.as_str(); this.fields.len()];
        let shown = this.fill(0, "stream", &shard, "error", &values);
        if shown.starts_with('/') || shown.contains("//") {
            return Err(BadTemplate::Text("a key must not start with `/` or hold `//`"));
        }
        if shown.split('/').any(|s| s == "." || s == "..") {
            return Err(BadTemplate::Text("a key must not hold `.` or `..` segments"));
        }
        if shown.chars().any(char::is_control) {
            return Err(BadTemplate::Text("a key must not hold control characters"));
        }
        if shown.contains("!{") {
            return Err(BadTemplate::Text("a variable is not closed by `}` before the next `!{`"));
        }
        if shown.len() > MAX_PREFIX {
            return Err(BadTemplate::Text(
                "a prefix may be 512 bytes long at the most; a field may take 100 of them",
            ));
        }
        Ok(this)
    }

    /// The literal text that every rendered prefix begins with.
    pub fn fixed(&self, stream: &str) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                TemplatePart::Text(literal) => text.push_str(literal),
                TemplatePart::Stream => text.push_str(stream),
                TemplatePart::Time(_)
                | TemplatePart::Shard
                | TemplatePart::Error
                | TemplatePart::Field(_) => break,
            }
        }
        text
    }

    /// Records whose arrival times fall into the same multiple of this many milliseconds share a
    /// partition; `None` when the template has no time in it.
    pub fn granularity_ms(&self) -> Option<i64> {
        self.granularity_ms
    }

    /// The slot of a time: times of one slot give the same prefix.
    pub fn slot(&self, ms: i64) -> i64 {
        self.granularity_ms.map_or(0, |granularity| ms.div_euclid(granularity))
    }

    /// The fields whose values are part of the prefix, in the order of their values.
    pub fn fields(&self) -> &[Path] {
        &self.fields
    }

    /// The prefix at `ms`, of a template without fields; `error` is the kind of a dead letter.
    pub fn render(&self, ms: i64, stream: &str, shard: &ShardId, error: &str) -> String {
        self.fill(ms, stream, shard, error, &[])
    }

    /// The prefix at `ms` with the values of [`fields`](Self::fields), escaped for keys.
    pub fn fill(
        &self,
        ms: i64,
        stream: &str,
        shard: &ShardId,
        error: &str,
        values: &[&str],
    ) -> String {
        let time = Timestamp::from_millisecond(ms).unwrap_or_default();
        let time = TimeZone::UTC.to_datetime(time);
        let mut key = String::new();
        for part in &self.parts {
            match part {
                TemplatePart::Text(text) => key.push_str(text),
                TemplatePart::Time(field) => field.write(&mut key, &time),
                TemplatePart::Stream => key.push_str(stream),
                TemplatePart::Shard => key.push_str(shard.as_str()),
                TemplatePart::Error => key.push_str(error),
                TemplatePart::Field(index) => {
                    key.push_str(values.get(*index).copied().unwrap_or_default())
                }
            }
        }
        key
    }
}

fn text(parts: &mut Vec<TemplatePart>, text: &str) {
    if !text.is_empty() {
        parts.push(TemplatePart::Text(text.to_owned()));
    }
}

fn variable(parts: &mut Vec<TemplatePart>, name: &str, errors: bool) -> Result<(), BadTemplate> {
    match name {
        "stream" => parts.push(TemplatePart::Stream),
        "shard" => parts.push(TemplatePart::Shard),
        "error" | "firehose:error-output-type" if errors => parts.push(TemplatePart::Error),
        "firehose:random-string" => {
            return Err(BadTemplate::Refused(
                name.to_owned(),
                "is refused: a random key could be written twice; object names are unique without it",
            ));
        }
        _ if name.starts_with("partitionKeyFrom") => {
            return Err(BadTemplate::Refused(
                name.to_owned(),
                "names a query that is configured elsewhere: write the field itself, as in \
                 !{field:customer.id}",
            ));
        }
        _ if name.starts_with("field:") => {
            return Err(BadTemplate::Refused(
                name.to_owned(),
                "can stand in delivery.prefix only: what is wrong with a dead letter may be its fields",
            ));
        }
        _ => {
            if let Some(field) = TemplateField::parse(name) {
                parts.push(TemplatePart::Time(field));
            } else if let Some(pattern) = name.strip_prefix("timestamp:") {
                time_pattern(parts, pattern)?;
            } else {
                return Err(BadTemplate::Unknown(name.to_owned()));
            }
        }
    }
    Ok(())
}

/// Java's DateTimeFormatter, as much of it as keys need.
fn time_pattern(parts: &mut Vec<TemplatePart>, pattern: &str) -> Result<(), BadTemplate> {
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        if c == '\'' {
            let quoted = &rest[1..];
            let end = quoted.find('\'').ok_or(BadTemplate::Letters(rest.to_owned()))?;
            text(parts, if end == 0 { "'" } else { &quoted[..end] });
            rest = &quoted[end + 1..];
        } else if c.is_ascii_alphabetic() {
            let run = rest.chars().take_while(|x| *x == c).count();
            let letters = &rest[..run];
            let field = TemplateField::parse(letters)
                .ok_or_else(|| BadTemplate::Letters(letters.to_owned()))?;
            parts.push(TemplatePart::Time(field));
            rest = &rest[run..];
        } else {
            text(parts, &rest[..c.len_utf8()]);
            rest = &rest[c.len_utf8()..];
        }
    }
    Ok(())
}

/// The file name of the objects of one batch: unique per shard and range, the same for everyone
/// who delivers that range.
pub fn object_name(stream: &str, shard: &ShardId, first: &Position, last: &Position) -> String {
    format!("{stream}-{shard}-{first}-{last}")
}

/// Shard and range back from an object key written by [`object_name`].
pub fn parse_object_name(key: &str) -> Option<(ShardId, Position, Position)> {
    let name = key.rsplit('/').next()?;
    let at = name.find("shardId-")?;
    let mut parts = name[at..].splitn(4, '-');
    let shard = format!("{}-{}", parts.next()?, parts.next()?);
    let first = parse_position(parts.next()?)?;
    let rest = parts.next()?;
    // `<digits>[.<sub>].<extension>`: extensions never start with a digit.
    let digits = rest.split('.').take_while(|p| p.bytes().all(|b| b.is_ascii_digit()));
    let last = parse_position(&digits.collect::<Vec<_>>().join("."))?;
    Some((ShardId::new(shard), first, last))
}

/// A position as it stands in names and metadata.
pub fn parse_position(text: &str) -> Option<Position> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).ok()
}

/// Key of the archive object of a partition, for a batch whose objects bear this name.
pub(super) fn archive_key(prefix: &str, name: &str, settings: &Settings) -> String {
    format!("{prefix}{name}.{}{}", settings.format.extension(), settings.codec.extension())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SequenceNumber;

    /// 2026-11-23T07:05:09.123Z
    const T: i64 = 1_795_417_509_123;

    fn render(template: &str) -> String {
        Template::parse(template, true).unwrap().render(
            T,
            "clicks",
            &ShardId::new("shardId-000000000007"),
            "too-large",
        )
    }

    #[test]
    fn a_variable_inside_another_is_refused() {
        for template in ["d!{timestamp:yy!{HH}/", "!!{timestamp:'{'}/"] {
            let refused = Template::parse(template, false).unwrap_err();
            assert!(refused.to_string().contains("closed"), "{refused}");
        }
    }

    #[test]
    fn firehose_and_hive_and_channel_dialects() {
        assert_eq!(render("raw/!{timestamp:yyyy/MM/dd/HH}/"), "raw/2026/11/23/07/");
        assert_eq!(
            render("!{stream}/dt=!{timestamp:yyyy-MM-dd}/hour=!{HH}/"),
            "clicks/dt=2026-11-23/hour=07/"
        );
        assert_eq!(render("!{timestamp:yyyy-MM-dd'T'HHmmss}/"), "2026-11-23T070509/");
        assert_eq!(render("!{yy}!{DDD}/!{shard}/"), "26327/shardId-000000000007/");
        assert_eq!(render("errors/!{firehose:error-output-type}/"), "errors/too-large/");
        assert_eq!(render(""), "");
    }

    #[test]
    fn the_fixed_part_ends_at_the_first_variable() {
        let fixed = |t| Template::parse(t, true).unwrap().fixed("clicks");
        assert_eq!(fixed("raw/!{stream}/dt=!{yyyy}/!{stream}/"), "raw/clicks/dt=");
        assert_eq!(fixed("!{yyyy}/"), "");
        assert_eq!(fixed("errors/!{error}/"), "errors/");
    }

    #[test]
    fn granularity_is_the_finest_field() {
        let of = |t| Template::parse(t, false).unwrap().granularity_ms();
        assert_eq!(of("a/"), None);
        assert_eq!(of("!{yyyy}/!{MM}/"), Some(86_400_000));
        assert_eq!(of("!{timestamp:yyyy/MM/dd/HH}/"), Some(3_600_000));
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_a_reason() {
        for (template, part) in [
            ("a/!{timestamp:yyyy", "never closed"),
            ("!{year}/", "known are"),
            ("!{timestamp:YYYY}/", "YYYY"),
            ("!{timestamp:hh}/", "hh"),
            ("!{firehose:random-string}/", "random"),
            ("!{partitionKeyFromQuery:id}/", "!{field:"),
            ("!{field:a..b}/", "a..b"),
            ("!{field:a}!{field:b}!{field:c}!{field:d}!{field:e}!{field:f}/", "512"),
            ("!{error}/", "known are"),
            ("/a/", "start with"),
            ("a//b", "//"),
            ("a/../b", ".."),
            ("a\n", "control"),
        ] {
            let error = Template::parse(template, false).unwrap_err().to_string();
            assert!(error.contains(part), "{template}: {error}");
        }
    }

    #[test]
    fn names_read_back() {
        let shard = ShardId::new("shardId-000000000007");
        let p = |t, sub| Position { sequence: SequenceNumber::parse(t).unwrap(), sub };
        for (first, last) in [(p("12", 0), p("34", 0)), (p("12", 3), p("34", 5))] {
            let name = object_name("my-stream.x", &shard, &first, &last);
            let key = format!("a/dt=1/{name}.envelope.ndjson.zst");
            assert_eq!(parse_object_name(&key), Some((shard.clone(), first, last)));
        }
        assert_eq!(parse_object_name("uploads/x.txt"), None);
    }
}
