//! Walks the TOML tree beside the schema, fills in the environment, and hands on a tree that fits the schema:
//! what didn't fit is reported, and a placeholder takes its seat.

use std::borrow::Cow;

use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeArray, DeFloat, DeInteger, DeTable, DeValue};

use super::document::{Document, kind};
use super::key_path::KeyPath;
use super::report::Report;
use super::shape::Shape;
use super::substitution::substitute;
use super::suggestion::closest;

/// Reads values of known shapes.
pub(super) struct Reader<'r, 'a> {
    env: &'r dyn Fn(&str) -> Option<String>,
    report: &'r mut Report<'a>,
}

impl<'r, 'a> Reader<'r, 'a> {
    pub(super) fn new(env: &'r dyn Fn(&str) -> Option<String>, report: &'r mut Report<'a>) -> Self {
        Self { env, report }
    }

    /// The whole file, as a value that fits the schema.
    pub(super) fn read(mut self, document: &Document<'_>) -> Value {
        self.table(&KeyPath::root(), Shape::root(), document.table())
    }

    fn value(&mut self, at: &KeyPath, shape: Shape, value: &DeValue<'_>) -> Value {
        let read = match value {
            DeValue::String(text) => return self.text(at, shape, text),
            DeValue::Integer(number) => shape.accepting("integer").map(|shape| self.integer(at, shape, number)),
            DeValue::Float(number) => shape.accepting("number").map(|shape| self.fraction(at, shape, number)),
            DeValue::Boolean(truth) => shape.accepting("boolean").map(|_| Value::Bool(*truth)),
            DeValue::Array(items) => shape.accepting("array").map(|branch| self.array(at, shape, branch, items)),
            DeValue::Table(entries) => shape.accepting("object").map(|shape| self.table(at, shape, entries)),
            DeValue::Datetime(_) => None,
        };
        read.unwrap_or_else(|| self.wrong(at, shape, kind(value)))
    }

    fn table(&mut self, at: &KeyPath, shape: Shape, entries: &DeTable<'_>) -> Value {
        let mut read = Map::with_capacity(entries.len());
        for (key, value) in entries {
            let key: &str = key.get_ref();
            let inside = at.key(key);
            match shape.entry(key) {
                Some(shape) => {
                    let value = self.value(&inside, shape, value.get_ref());
                    read.insert(key.to_owned(), value);
                }
                None => self.unknown_key(at, shape, key, entries),
            }
        }
        for key in shape.required().filter(|key| !entries.contains_key(*key)) {
            if let Some(shape) = shape.entry(key) {
                self.report.absent(&at.key(key), "this key is missing", shape.description());
                self.report.mark_broken(&at.key(key));
                read.insert(key.to_owned(), shape.placeholder());
            }
        }
        Value::Object(read)
    }

    /// A misspelled key stands for the one that was meant, so that one isn't called missing on top.
    fn unknown_key(&mut self, around: &KeyPath, shape: Shape, key: &str, entries: &DeTable<'_>) {
        let meant = closest(key, shape.keys());
        let hint = match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("the keys here are {}", shape.keys().collect::<Vec<_>>().join(", ")),
        };
        self.report.broken(&around.key(key), "there is no such key", hint);
        if let Some(meant) = meant.filter(|meant| !entries.contains_key(*meant)) {
            self.report.mark_broken(&around.key(meant));
        }
    }

    fn array(&mut self, at: &KeyPath, shape: Shape, branch: Shape, items: &DeArray<'_>) -> Value {
        if (items.len() as u64) < branch.items_min() {
            self.report.broken(at, "the list is empty", shape.description());
        }
        let Some(shape) = branch.items() else { return Value::Array(Vec::new()) };
        let read = |(index, item): (usize, &Spanned<DeValue<'_>>)| self.value(&at.index(index), shape, item.get_ref());
        items.iter().enumerate().map(read).collect()
    }

    /// A text, or another simple value that a substitution has made a text of.
    fn text(&mut self, at: &KeyPath, shape: Shape, text: &str) -> Value {
        let filled = match substitute(text, self.env) {
            Ok(filled) => filled,
            Err(error) => {
                self.report.broken(at, error.to_string(), error.hint());
                return shape.placeholder();
            }
        };
        if shape.accepting("string").is_some() {
            return self.word(at, shape, &filled);
        }
        if let Cow::Borrowed(_) = filled {
            return self.wrong(at, shape, "a text");
        }
        match DeValue::parse(filled.trim()).map(Spanned::into_inner) {
            Ok(value @ (DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_))) => {
                self.value(at, shape, &value)
            }
            _ => self.wrong(at, shape, "a text from the environment"),
        }
    }

    fn word(&mut self, at: &KeyPath, shape: Shape, word: &str) -> Value {
        let choices = shape.choices();
        if choices.is_empty() || choices.contains(&word) {
            return word.into();
        }
        let list = choices.iter().map(|choice| format!("{choice:?}")).collect::<Vec<_>>().join(" or ");
        let hint = match closest(word, choices) {
            Some(meant) => format!("did you mean {meant:?}?"),
            None => shape.description().to_owned(),
        };
        self.report.broken(at, format!("{list} is wanted here, not {word:?}"), hint);
        shape.placeholder()
    }

    fn integer(&mut self, at: &KeyPath, shape: Shape, number: &DeInteger<'_>) -> Value {
        let (min, max) = shape.range();
        let value = i64::from_str_radix(number.as_str(), number.radix()).ok();
        if let Some(value) = value.filter(|value| (min..=max).contains(value)) {
            return value.into();
        }
        let range = match (min, max) {
            (i64::MIN, _) => "a 64-bit number is wanted here".to_owned(),
            (_, i64::MAX) => format!("a whole number of at least {min} is wanted here"),
            _ => format!("a whole number from {min} to {max} is wanted here"),
        };
        self.report.broken(at, format!("{range}, not {number}"), shape.description());
        shape.placeholder()
    }

    fn fraction(&mut self, at: &KeyPath, shape: Shape, number: &DeFloat<'_>) -> Value {
        let value = number.as_str().parse().ok().and_then(serde_json::Number::from_f64);
        value.map_or_else(|| self.wrong(at, shape, number.as_str()), Value::Number)
    }

    fn wrong(&mut self, at: &KeyPath, shape: Shape, found: &str) -> Value {
        self.report.broken(at, format!("{} is wanted here, not {found}", shape.wanted()), shape.description());
        shape.placeholder()
    }
}
