//! Update expressions: SET, REMOVE, ADD, DELETE.

use std::collections::BTreeSet;

use super::parser::Parser;
use super::{Fault, Names, Operand};
use crate::services::attr::{Attr, Row};

/// The right side of a SET.
#[derive(Clone, Debug)]
pub(super) enum Assigned {
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
