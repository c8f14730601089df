//! DynamoDB's expression language: conditions and updates over top-level attributes.
//!
//! Strict on purpose: reserved words used bare, unused or unknown placeholders, overlapping paths
//! and writes to the key are refused, because the real service refuses them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

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
        for (key, value) in body["ExpressionAttributeNames"]
            .as_object()
            .into_iter()
            .flatten()
        {
            names.insert(key.clone(), value.as_str().unwrap_or_default().to_owned());
        }
        let mut values = BTreeMap::new();
        for (key, value) in body["ExpressionAttributeValues"]
            .as_object()
            .into_iter()
            .flatten()
        {
            let value = Attr::from_json(value).map_err(|e| {
                format!("ExpressionAttributeValues contains invalid value: {e} for key {key}")
            })?;
            values.insert(key.clone(), value);
        }
        Ok(Self {
            names,
            values,
            used: BTreeSet::new(),
        })
    }

    /// Call after all expressions were parsed.
    pub fn all_used(&self) -> Result<(), Fault> {
        let unused = |keys: Vec<&String>, which: &str| match keys.as_slice() {
            [] => Ok(()),
            keys => Err(format!(
                "Value provided in {which} unused in expressions: keys: {keys:?}"
            )),
        };
        unused(
            self.names
                .keys()
                .filter(|k| !self.used.contains(*k))
                .collect(),
            "ExpressionAttributeNames",
        )?;
        unused(
            self.values
                .keys()
                .filter(|k| !self.used.contains(*k))
                .collect(),
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
            return Err(format!(
                "Attribute name is a reserved keyword; reserved keyword: {token}"
            ));
        }
        let plain = token
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && token.starts_with(|c: char| c.is_ascii_alphabetic());
        if plain {
            Ok(token.to_owned())
        } else {
            Err(format!("Syntax error; token: \"{token}\""))
        }
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
                super::attr::Number::parse(&size.to_string())
                    .ok()
                    .map(Attr::N)
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

/// The right side of a SET.
#[derive(Clone, Debug)]
enum Assigned {
    Is(Operand),
    Sum(Box<Assigned>, i128, Box<Assigned>),
    IfNotExists(String, Box<Assigned>),
    ListAppend(Box<Assigned>, Box<Assigned>),
}

#[derive(Clone, Debug)]
enum Action {
    Set(String, Assigned),
    Remove(String),
    Add(String, Attr),
    Delete(String, Attr),
}

/// A parsed update.
#[derive(Clone, Debug, Default)]
pub struct Update(Vec<Action>);

impl Update {
    pub fn parse(text: &str, names: &mut Names) -> Result<Self, Fault> {
        let mut parser = Parser::new(text, names)?;
        let mut actions = Vec::new();
        let mut sections = BTreeSet::new();
        while let Some(word) = parser.next() {
            let section = word.to_ascii_uppercase();
            if !sections.insert(section.clone()) {
                return Err(format!(
                    "The \"{section}\" section can only be used once in an update expression;"
                ));
            }
            loop {
                let path = parser.path()?;
                actions.push(match section.as_str() {
                    "SET" => {
                        parser.expect("=")?;
                        Action::Set(path, parser.assigned()?)
                    }
                    "REMOVE" => Action::Remove(path),
                    "ADD" => Action::Add(path, parser.literal()?),
                    "DELETE" => Action::Delete(path, parser.literal()?),
                    _ => return Err(format!("Syntax error; token: \"{word}\"")),
                });
                if !parser.take(",") {
                    break;
                }
            }
        }
        let update = Self(actions);
        let paths: Vec<&str> = update.paths().collect();
        if paths.iter().collect::<BTreeSet<_>>().len() != paths.len() {
            return Err("Two document paths overlap with each other".to_owned());
        }
        Ok(update)
    }

    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|action| match action {
            Action::Set(path, _) | Action::Remove(path) => path.as_str(),
            Action::Add(path, _) | Action::Delete(path, _) => path.as_str(),
        })
    }

    /// The row after the update; every right side sees the row before it.
    pub fn apply(&self, before: &Row) -> Result<Row, Fault> {
        let mut row = before.clone();
        for action in &self.0 {
            match action {
                Action::Set(path, assigned) => {
                    row.insert(path.clone(), assigned.eval(before)?);
                }
                Action::Remove(path) => {
                    row.remove(path);
                }
                Action::Add(path, value) => {
                    let next = match (before.get(path), value) {
                        (None, Attr::N(_) | Attr::Ss(_)) => value.clone(),
                        (Some(Attr::N(a)), Attr::N(b)) => Attr::N(a.add(*b, 1)?),
                        (Some(Attr::Ss(a)), Attr::Ss(b)) => Attr::Ss(a.union(b).cloned().collect()),
                        _ => {
                            return Err(
                                "An operand in the update expression has an incorrect data type"
                                    .into(),
                            );
                        }
                    };
                    row.insert(path.clone(), next);
                }
                Action::Delete(path, value) => match (before.get(path), value) {
                    (None, Attr::Ss(_)) => {}
                    (Some(Attr::Ss(a)), Attr::Ss(b)) => {
                        let left: BTreeSet<String> = a.difference(b).cloned().collect();
                        if left.is_empty() {
                            row.remove(path);
                        } else {
                            row.insert(path.clone(), Attr::Ss(left));
                        }
                    }
                    _ => {
                        return Err(
                            "An operand in the update expression has an incorrect data type".into(),
                        );
                    }
                },
            }
        }
        Ok(row)
    }
}

impl Assigned {
    fn eval(&self, row: &Row) -> Result<Attr, Fault> {
        match self {
            Assigned::Is(operand) => operand.eval(row).ok_or_else(|| {
                "The provided expression refers to an attribute that does not exist in the item"
                    .to_owned()
            }),
            Assigned::Sum(a, sign, b) => match (a.eval(row)?, b.eval(row)?) {
                (Attr::N(a), Attr::N(b)) => Ok(Attr::N(a.add(b, *sign)?)),
                _ => Err("An operand in the update expression has an incorrect data type".into()),
            },
            Assigned::IfNotExists(path, other) => match row.get(path) {
                Some(value) => Ok(value.clone()),
                None => other.eval(row),
            },
            Assigned::ListAppend(a, b) => match (a.eval(row)?, b.eval(row)?) {
                (Attr::L(a), Attr::L(b)) => Ok(Attr::L(a.into_iter().chain(b).collect())),
                _ => Err("An operand in the update expression has an incorrect data type".into()),
            },
        }
    }
}

struct Parser<'a> {
    tokens: Vec<String>,
    at: usize,
    names: &'a mut Names,
}

impl<'a> Parser<'a> {
    fn new(text: &str, names: &'a mut Names) -> Result<Self, Fault> {
        if text.trim().is_empty() {
            return Err("The expression can not be empty;".to_owned());
        }
        let mut tokens = Vec::new();
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '#' | ':');
            let end = if word(first) {
                rest.find(|c| !word(c)).unwrap_or(rest.len())
            } else if ["<>", "<=", ">="].iter().any(|op| rest.starts_with(op)) {
                2
            } else if "=<>(),+-".contains(first) {
                1
            } else {
                return Err(format!(
                    "the simulator's expressions know no \"{first}\" in {text}"
                ));
            };
            tokens.push(rest[..end].to_owned());
            rest = rest[end..].trim_start();
        }
        Ok(Self {
            tokens,
            at: 0,
            names,
        })
    }

    fn peek(&self, ahead: usize) -> &str {
        self.tokens.get(self.at + ahead).map_or("", String::as_str)
    }

    fn next(&mut self) -> Option<String> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn take(&mut self, token: &str) -> bool {
        let hit = self.peek(0).eq_ignore_ascii_case(token);
        self.at += usize::from(hit);
        hit
    }

    fn expect(&mut self, token: &str) -> Result<(), Fault> {
        if self.take(token) {
            Ok(())
        } else {
            Err(format!(
                "Syntax error; token: \"{}\", expected {token}",
                self.peek(0)
            ))
        }
    }

    fn end(&self) -> Result<(), Fault> {
        if self.at >= self.tokens.len() {
            Ok(())
        } else {
            Err(format!("Syntax error; token: \"{}\"", self.peek(0)))
        }
    }

    fn path(&mut self) -> Result<String, Fault> {
        let token = self.next().unwrap_or_default();
        self.names.path(&token)
    }

    fn literal(&mut self) -> Result<Attr, Fault> {
        let token = self.next().unwrap_or_default();
        self.names.value(&token)
    }

    fn operand(&mut self) -> Result<Operand, Fault> {
        if self.peek(0).starts_with(':') {
            return Ok(Operand::Literal(self.literal()?));
        }
        if self.peek(0) == "size" && self.peek(1) == "(" {
            self.at += 2;
            let path = self.path()?;
            self.expect(")")?;
            return Ok(Operand::Size(path));
        }
        Ok(Operand::Path(self.path()?))
    }

    fn or(&mut self) -> Result<Condition, Fault> {
        let mut left = self.and()?;
        while self.take("OR") {
            left = Condition::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Condition, Fault> {
        let mut left = self.not()?;
        while self.take("AND") {
            left = Condition::And(Box::new(left), Box::new(self.not()?));
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Condition, Fault> {
        if self.take("NOT") {
            return Ok(Condition::Not(Box::new(self.not()?)));
        }
        if self.take("(") {
            let inner = self.or()?;
            self.expect(")")?;
            return Ok(inner);
        }
        if self.peek(1) == "(" && self.peek(0) != "size" {
            return self.function();
        }
        let left = self.operand()?;
        let comparator = self.next().unwrap_or_default();
        if comparator.eq_ignore_ascii_case("IN") {
            self.expect("(")?;
            let mut options = vec![self.operand()?];
            while self.take(",") {
                options.push(self.operand()?);
            }
            self.expect(")")?;
            return Ok(Condition::In(left, options));
        }
        if comparator.eq_ignore_ascii_case("BETWEEN") {
            let low = self.operand()?;
            self.expect("AND")?;
            let high = self.operand()?;
            return Ok(Condition::And(
                Box::new(Condition::Compare(left.clone(), ">=".into(), low)),
                Box::new(Condition::Compare(left, "<=".into(), high)),
            ));
        }
        if !["=", "<>", "<", "<=", ">", ">="].contains(&comparator.as_str()) {
            return Err(format!("Syntax error; token: \"{comparator}\""));
        }
        Ok(Condition::Compare(left, comparator, self.operand()?))
    }

    fn function(&mut self) -> Result<Condition, Fault> {
        let name = self.next().unwrap_or_default();
        self.expect("(")?;
        let path = self.path()?;
        let condition = match name.as_str() {
            "attribute_exists" => Condition::Exists(path, true),
            "attribute_not_exists" => Condition::Exists(path, false),
            "begins_with" | "contains" => {
                self.expect(",")?;
                let part = self.operand()?;
                if name == "contains" {
                    Condition::Contains(path, part)
                } else {
                    Condition::BeginsWith(path, part)
                }
            }
            _ => return Err(format!("Invalid function name; function: {name}")),
        };
        self.expect(")")?;
        Ok(condition)
    }

    fn assigned(&mut self) -> Result<Assigned, Fault> {
        let left = self.assigned_part()?;
        for (token, sign) in [("+", 1), ("-", -1)] {
            if self.take(token) {
                return Ok(Assigned::Sum(
                    Box::new(left),
                    sign,
                    Box::new(self.assigned_part()?),
                ));
            }
        }
        Ok(left)
    }

    fn assigned_part(&mut self) -> Result<Assigned, Fault> {
        let name = self.peek(0).to_owned();
        if self.peek(1) != "(" {
            return Ok(Assigned::Is(self.operand()?));
        }
        self.at += 2;
        let made = match name.as_str() {
            "if_not_exists" => {
                let path = self.path()?;
                self.expect(",")?;
                Assigned::IfNotExists(path, Box::new(self.assigned_part()?))
            }
            "list_append" => {
                let first = self.assigned_part()?;
                self.expect(",")?;
                Assigned::ListAppend(Box::new(first), Box::new(self.assigned_part()?))
            }
            _ => return Err(format!("Invalid function name; function: {name}")),
        };
        self.expect(")")?;
        Ok(made)
    }
}
