//! DynamoDB attribute values: the types a lease table uses, and numbers as DynamoDB keeps them.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// An item.
pub type Row = BTreeMap<String, Attr>;

/// An attribute value. Binaries stay in base64, as on the wire.
#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    S(String),
    N(Number),
    B(String),
    Bool(bool),
    Null,
    Ss(BTreeSet<String>),
    L(Vec<Attr>),
    M(BTreeMap<String, Attr>),
}

impl Attr {
    pub fn as_n(&self) -> Option<String> {
        match self {
            Attr::N(number) => Some(number.to_string()),
            _ => None,
        }
    }

    pub fn as_s(&self) -> Option<&str> {
        match self {
            Attr::S(text) => Some(text),
            _ => None,
        }
    }

    pub fn from_json(value: &Value) -> Result<Self, String> {
        let tagged = value.as_object().filter(|o| o.len() == 1).ok_or(
            "Supplied AttributeValue is empty, must contain exactly one of the supported datatypes",
        )?;
        let (tag, inner) = tagged.iter().next().ok_or("empty attribute value")?;
        let text = || inner.as_str().map(str::to_owned).ok_or(format!("{tag} must be a string"));
        let list = || inner.as_array().ok_or(format!("{tag} must be a list"));
        Ok(match tag.as_str() {
            "S" => Attr::S(text()?),
            "N" => Attr::N(Number::parse(&text()?)?),
            "B" => Attr::B(text()?),
            "BOOL" => Attr::Bool(inner.as_bool().ok_or("BOOL must be a boolean")?),
            "NULL" => Attr::Null,
            "SS" => {
                let items = list()?;
                let set: BTreeSet<String> =
                    items.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect();
                if set.is_empty() {
                    return Err("An string set  may not be empty".to_owned());
                }
                if set.len() != items.len() {
                    return Err("Input collection contains duplicates.".to_owned());
                }
                Attr::Ss(set)
            }
            "L" => Attr::L(list()?.iter().map(Attr::from_json).collect::<Result<_, _>>()?),
            "M" => Attr::M(row_from_json(inner)?),
            other => return Err(format!("the simulator knows no attribute type {other}")),
        })
    }

    pub fn to_json(&self) -> Value {
        match self {
            Attr::S(text) => json!({ "S": text }),
            Attr::N(number) => json!({ "N": number.to_string() }),
            Attr::B(text) => json!({ "B": text }),
            Attr::Bool(value) => json!({ "BOOL": value }),
            Attr::Null => json!({ "NULL": true }),
            Attr::Ss(set) => json!({ "SS": set }),
            Attr::L(items) => json!({ "L": items.iter().map(Attr::to_json).collect::<Vec<_>>() }),
            Attr::M(map) => json!({ "M": row_to_json(map) }),
        }
    }

    /// Order within one type; `None` across types, where every comparison is false.
    pub fn order(&self, other: &Attr) -> Option<Ordering> {
        match (self, other) {
            (Attr::S(a), Attr::S(b)) | (Attr::B(a), Attr::B(b)) => Some(a.cmp(b)),
            (Attr::N(a), Attr::N(b)) => Some(a.order(b)),
            _ => None,
        }
    }

    /// The size rule of the 400 KB limit, roughly.
    pub fn size(&self) -> usize {
        match self {
            Attr::S(text) | Attr::B(text) => text.len(),
            Attr::N(_) => 21,
            Attr::Bool(_) | Attr::Null => 1,
            Attr::Ss(set) => set.iter().map(String::len).sum(),
            Attr::L(items) => 3 + items.iter().map(|a| 1 + a.size()).sum::<usize>(),
            Attr::M(map) => 3 + map.iter().map(|(k, a)| 1 + k.len() + a.size()).sum::<usize>(),
        }
    }
}

pub fn row_from_json(value: &Value) -> Result<Row, String> {
    let map = value.as_object().ok_or("an item must be a map")?;
    map.iter().map(|(k, v)| Ok((k.clone(), Attr::from_json(v)?))).collect()
}

pub fn row_to_json(row: &Row) -> Value {
    Value::Object(row.iter().map(|(k, v)| (k.clone(), v.to_json())).collect::<Map<_, _>>())
}

/// A decimal of at most 38 significant digits: `digits` times ten to the `exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    digits: i128,
    exponent: i32,
}

const TOO_LONG: &str = "Attempting to store more than 38 significant digits in a Number";

impl Number {
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("The parameter cannot be converted to a numeric value: {text}");
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((m, e)) => (m, e.parse::<i32>().map_err(|_| bad())?),
            None => (text, 0),
        };
        let negative = mantissa.starts_with('-');
        let mantissa = mantissa.trim_start_matches(['-', '+']);
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        if all.is_empty() || !all.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        let significant = all.trim_start_matches('0');
        let kept = significant.trim_end_matches('0');
        if kept.len() > 38 {
            return Err(TOO_LONG.to_owned());
        }
        let dropped = i32::try_from(significant.len() - kept.len()).map_err(|_| bad())?;
        let shift = i32::try_from(fraction.len()).map_err(|_| bad())?;
        let digits = if kept.is_empty() { 0 } else { kept.parse::<i128>().map_err(|_| bad())? };
        Ok(Self {
            digits: if negative { -digits } else { digits },
            exponent: if digits == 0 { 0 } else { exponent - shift + dropped },
        })
    }

    fn aligned(self, other: Self) -> Option<(i128, i128, i32)> {
        let exponent = self.exponent.min(other.exponent);
        let scale = |n: Self| {
            10i128
                .checked_pow(u32::try_from(n.exponent - exponent).ok()?)
                .and_then(|factor| n.digits.checked_mul(factor))
        };
        Some((scale(self)?, scale(other)?, exponent))
    }

    pub fn add(self, other: Self, sign: i128) -> Result<Self, String> {
        let (a, b, exponent) = self.aligned(other).ok_or(TOO_LONG)?;
        let sum = a.checked_add(sign * b).ok_or(TOO_LONG)?;
        Number::parse(&format!("{sum}e{exponent}"))
    }

    pub fn order(&self, other: &Self) -> Ordering {
        match self.aligned(*other) {
            Some((a, b, _)) => a.cmp(&b),
            // Too far apart to share a scale: the sign or the larger exponent decides.
            None => {
                let rank = |n: &Self| {
                    let size = i64::from(n.exponent) + n.digits.to_string().len() as i64;
                    n.digits.signum() as i64 * (1_000 + size)
                };
                rank(self).cmp(&rank(other))
            }
        }
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.digits < 0 { "-" } else { "" };
        let digits = self.digits.unsigned_abs().to_string();
        if self.exponent >= 0 {
            return write!(
                f,
                "{sign}{digits}{}",
                "0".repeat(self.exponent.unsigned_abs() as usize)
            );
        }
        let places = self.exponent.unsigned_abs() as usize;
        let padded = format!("{digits:0>width$}", width = places + 1);
        let (whole, fraction) = padded.split_at(padded.len() - places);
        write!(f, "{sign}{whole}.{fraction}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal_and_hold_38_digits() {
        for (text, shown) in
            [("007", "7"), ("1.50", "1.5"), ("-0.25", "-0.25"), ("1e3", "1000"), ("0.0", "0")]
        {
            assert_eq!(Number::parse(text).unwrap().to_string(), shown, "{text}");
        }
        let sum = Number::parse("0.1").unwrap().add(Number::parse("0.2").unwrap(), 1).unwrap();
        assert_eq!(sum, Number::parse("0.3").unwrap());
        assert!(Number::parse(&"9".repeat(38)).is_ok());
        assert!(Number::parse(&"9".repeat(56)).is_err());
        assert_eq!(
            Number::parse("2").unwrap().order(&Number::parse("10").unwrap()),
            Ordering::Less
        );
    }
}
