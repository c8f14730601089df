//! Text to conditions and right sides, by recursive descent.

use super::update::Assigned;
use super::{Condition, Fault, Names, Operand};
use crate::services::attr::Attr;

pub(super) struct Parser<'a> {
    tokens: Vec<String>,
    at: usize,
    names: &'a mut Names,
}

impl<'a> Parser<'a> {
    pub(super) fn new(text: &str, names: &'a mut Names) -> Result<Self, Fault> {
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
                return Err(format!("the simulator's expressions know no \"{first}\" in {text}"));
            };
            tokens.push(rest[..end].to_owned());
            rest = rest[end..].trim_start();
        }
        Ok(Self { tokens, at: 0, names })
    }

    fn peek(&self, ahead: usize) -> &str {
        self.tokens.get(self.at + ahead).map_or("", String::as_str)
    }

    pub(super) fn next(&mut self) -> Option<String> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    pub(super) fn take(&mut self, token: &str) -> bool {
        let hit = self.peek(0).eq_ignore_ascii_case(token);
        self.at += usize::from(hit);
        hit
    }

    pub(super) fn expect(&mut self, token: &str) -> Result<(), Fault> {
        if self.take(token) {
            Ok(())
        } else {
            Err(format!("Syntax error; token: \"{}\", expected {token}", self.peek(0)))
        }
    }

    pub(super) fn end(&self) -> Result<(), Fault> {
        if self.at >= self.tokens.len() {
            Ok(())
        } else {
            Err(format!("Syntax error; token: \"{}\"", self.peek(0)))
        }
    }

    pub(super) fn path(&mut self) -> Result<String, Fault> {
        let token = self.next().unwrap_or_default();
        self.names.path(&token)
    }

    pub(super) fn literal(&mut self) -> Result<Attr, Fault> {
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

    pub(super) fn or(&mut self) -> Result<Condition, Fault> {
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

    pub(super) fn assigned(&mut self) -> Result<Assigned, Fault> {
        let left = self.assigned_part()?;
        for (token, sign) in [("+", 1), ("-", -1)] {
            if self.take(token) {
                return Ok(Assigned::Sum(Box::new(left), sign, Box::new(self.assigned_part()?)));
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
