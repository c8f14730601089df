//! DynamoDB's expression language: conditions and updates over top-level attributes.
//!
//! Strict on purpose: reserved words used bare, unused or unknown placeholders, overlapping paths
//! and writes to the key are refused, because the real service refuses them.

mod parser;
mod update;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use self::parser::Parser;
pub use self::update::Update;
use super::attr::{Attr, Row};

type Fault = String;

/// The part of DynamoDB's reserved words that a lease table is likely to touch.
const RESERVED: &[&str] = &[
    "ADD",
    "ALL",
    "AND",
    "BETWEEN",
    "BINARY",
    "BY",
    "CONNECTION",
    "COUNT",
    "COUNTER",
    "DATA",
    "DATE",
    "DELETE",
    "END",
    "EXISTS",
    "HASH",
    "HIDDEN",
    "INDEX",
    "ITEMS",
    "KEY",
    "KEYS",
    "LIST",
    "LOCATION",
    "MAP",
    "MISSING",
    "NAME",
    "NAMES",
    "NOT",
    "OR",
    "OWNER",
    "PARTITION",
    "POSITION",
    "RANGE",
    "REGION",
    "REMOVE",
    "ROLE",
    "SEQUENCE",
    "SET",
    "SIZE",
    "START",
    "STATE",
    "STATUS",
    "STREAM",
    "TABLE",
    "TIME",
    "TIMESTAMP",
    "TOKEN",
    "TTL",
    "TYPE",
    "USER",
    "VALUE",
    "VALUES",
    "ZONE",
];

/// The placeholders of a request, and which of them were used.
pub struct Names {
    names: BTreeMap<String, String>,
    values: BTreeMap<String, Attr>,
    used: BTreeSet<String>,
}

impl Names {
    pub fn from_request(body: &Value) -> Result<Self, Fault> {
        let mut names = BTreeMap::new();
        for (key, value) in body["ExpressionAttributeNames"].as_object().into_iter().flatten() {
            names.insert(key.clone(), value.as_str().unwrap_or_default().to_owned());
        }
        let mut values = BTreeMap::new();
        for (key, value) in body["ExpressionAttributeValues"].as_object().into_iter().flatten() {
            let value = Attr::from_json(value).map_err(|e| {
                format!("ExpressionAttributeValues contains invalid value: {e} for key {key}")
            })?;
            values.insert(key.clone(), value);
        }
        Ok(Self { names, values, used: BTreeSet::new() })
    }

    /// Call after all expressions were parsed.
    pub fn all_used(&self) -> Result<(), Fault> {
        let unused = |keys: Vec<&String>, which: &str| match keys.as_slice() {
            [] => Ok(()),
            keys => Err(format!("Value provided in {which} unused in expressions: keys: {keys:?}")),
        };
        unused(
            self.names.keys().filter(|k| !self.used.contains(*k)).collect(),
            "ExpressionAttributeNames",
        )?;
        unused(
            self.values.keys().filter(|k| !self.used.contains(*k)).collect(),
            "ExpressionAttributeValues",
        )
    }

    fn path(&mut self, token: &str) -> Result<String, Fault> {
        if token.starts_with('#') {
            self.used.insert(token.to_owned());
            return self.names.get(token).cloned().ok_or_else(|| {
                format!("An expression attribute name used in the document path is not defined; attribute name: {token}")
            });
        }
        if RESERVED.contains(&token.to_ascii_uppercase().as_str()) {
            return Err(format!("Attribute name is a reserved keyword; reserved keyword: {token}"));
        }
        let plain = token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && token.starts_with(|c: char| c.is_ascii_alphabetic());
        if plain { Ok(token.to_owned()) } else { Err(format!("Syntax error; token: \"{token}\"")) }
    }

    fn value(&mut self, token: &str) -> Result<Attr, Fault> {
        self.used.insert(token.to_owned());
        self.values.get(token).cloned().ok_or_else(|| {
            format!("An expression attribute value used in expression is not defined; attribute value: {token}")
        })
    }
}

/// A value an expression can name.
#[derive(Clone, Debug)]
pub enum Operand {
    Path(String),
    Literal(Attr),
    Size(String),
}

impl Operand {
    fn eval(&self, row: &Row) -> Option<Attr> {
        match self {
            Operand::Path(path) => row.get(path).cloned(),
            Operand::Literal(value) => Some(value.clone()),
            Operand::Size(path) => {
                let size = match row.get(path)? {
                    Attr::L(items) => items.len(),
                    Attr::Ss(set) => set.len(),
                    Attr::M(map) => map.len(),
                    other => other.size(),
                };
                super::attr::Number::parse(&size.to_string()).ok().map(Attr::N)
            }
        }
    }
}

/// A parsed condition.
#[derive(Clone, Debug)]
pub enum Condition {
    Compare(Operand, String, Operand),
    Exists(String, bool),
    BeginsWith(String, Operand),
    Contains(String, Operand),
    In(Operand, Vec<Operand>),
    Not(Box<Condition>),
    And(Box<Condition>, Box<Condition>),
    Or(Box<Condition>, Box<Condition>),
}

impl Condition {
    pub fn parse(text: &str, names: &mut Names) -> Result<Self, Fault> {
        let mut parser = Parser::new(text, names)?;
        let condition = parser.or()?;
        parser.end()?;
        Ok(condition)
    }

    pub fn holds(&self, row: &Row) -> bool {
        match self {
            Condition::And(a, b) => a.holds(row) && b.holds(row),
            Condition::Or(a, b) => a.holds(row) || b.holds(row),
            Condition::Not(inner) => !inner.holds(row),
            Condition::Exists(path, wanted) => row.contains_key(path) == *wanted,
            Condition::BeginsWith(path, prefix) => match (row.get(path), prefix.eval(row)) {
                (Some(Attr::S(text)), Some(Attr::S(prefix))) => text.starts_with(&prefix),
                _ => false,
            },
            Condition::Contains(path, part) => match (row.get(path), part.eval(row)) {
                (Some(Attr::S(text)), Some(Attr::S(part))) => text.contains(&part),
                (Some(Attr::Ss(set)), Some(Attr::S(part))) => set.contains(&part),
                (Some(Attr::L(items)), Some(part)) => items.contains(&part),
                _ => false,
            },
            Condition::In(operand, options) => {
                let value = operand.eval(row);
                value.is_some() && options.iter().any(|option| option.eval(row) == value)
            }
            Condition::Compare(left, comparator, right) => {
                let (left, right) = (left.eval(row), right.eval(row));
                let (Some(left), Some(right)) = (left, right) else {
                    return comparator == "<>";
                };
                match comparator.as_str() {
                    "=" => left == right,
                    "<>" => left != right,
                    "<" => left.order(&right).is_some_and(|o| o.is_lt()),
                    "<=" => left.order(&right).is_some_and(|o| o.is_le()),
                    ">" => left.order(&right).is_some_and(|o| o.is_gt()),
                    _ => left.order(&right).is_some_and(|o| o.is_ge()),
                }
            }
        }
    }

    /// The literal a path must equal for this condition to hold, as key conditions need it.
    pub fn equality(&self, path: &str) -> Option<Attr> {
        match self {
            Condition::And(a, b) => a.equality(path).or_else(|| b.equality(path)),
            Condition::Compare(Operand::Path(p), op, Operand::Literal(v))
                if op == "=" && p == path =>
            {
                Some(v.clone())
            }
            _ => None,
        }
    }
}
