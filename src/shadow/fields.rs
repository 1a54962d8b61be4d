//! Where two answers differ, and how: what is counted, over all requests.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Fields of one pair that are told apart; one more stands for the rest.
const FIELDS_MAX: usize = 64;

/// A place in an answer, and how it differs there. One that holds other values is another field than one of another
/// type, since a value may be noise (a timestamp) where a type never is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "(String, Change)", into = "(String, Change)")]
pub struct Field {
    /// `status`, `header location`, `body`, or a place in a JSON body like `$.items[*].price`.
    pub place: Arc<str>,
    pub change: Change,
}

/// How a place differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Change {
    /// Another value of the same type.
    Value,
    /// A value of another type.
    Type,
    /// Only the primary has it.
    Missing,
    /// Only the shadow has it.
    Added,
    /// Another number of elements or bytes.
    Length,
    /// Only one of both is JSON.
    NotJson,
}

impl Change {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Value => "changed",
            Self::Type => "type changed",
            Self::Missing => "missing",
            Self::Added => "added",
            Self::Length => "length",
            Self::NotJson => "not json",
        }
    }
}

impl Field {
    #[must_use]
    pub fn new(place: &str, change: Change) -> Self {
        Self { place: place.into(), change }
    }

    /// Whether answers that differ here aren't compared any further, at least below this place.
    #[must_use]
    pub fn hides_others(&self) -> bool {
        self.change == Change::Length || matches!(&*self.place, "status" | "body" | "header content-encoding" | "$")
    }

    /// What stands for fields that find no place of their own.
    #[must_use]
    pub fn others() -> Self {
        Self::new("(others)", Change::Value)
    }
}

impl From<(String, Change)> for Field {
    fn from((place, change): (String, Change)) -> Self {
        Self::new(&place, change)
    }
}

impl From<Field> for (String, Change) {
    fn from(field: Field) -> Self {
        (field.place.to_string(), field.change)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.place, self.change.name())
    }
}

/// A value of each side, bounded and redacted; empty where a side has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Values {
    pub primary: String,
    pub shadow: String,
}

/// Fields in which one answer differs from the primary's, each once, in their own order: whichever side is looked at
/// first, they come in the same.
#[derive(Debug, Clone, Default)]
pub struct Differences(BTreeMap<Field, Values>);

impl Differences {
    /// Notes one; `values` are asked for where it is the field's first.
    pub(super) fn add(&mut self, field: Field, values: impl FnOnce() -> Values) {
        let field = if self.0.len() < FIELDS_MAX || self.0.contains_key(&field) { field } else { Field::others() };
        if let Entry::Vacant(vacant) = self.0.entry(field) {
            vacant.insert(values());
        }
    }

    #[must_use]
    pub fn contain(&self, field: &Field) -> bool {
        self.0.contains_key(field)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Field, &Values)> {
        self.0.iter()
    }

    /// There are fields in which this one differs and the other doesn't.
    #[must_use]
    pub fn exceed(&self, other: &Self) -> bool {
        self.0.keys().any(|field| !other.contain(field))
    }
}

impl FromIterator<Field> for Differences {
    fn from_iter<I: IntoIterator<Item = Field>>(fields: I) -> Self {
        let mut differences = Self::default();
        fields.into_iter().for_each(|field| differences.add(field, Values::default));
        differences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_beyond_the_limit_are_one() {
        let many = (0..1_000).map(|n| Field::new(&format!("$.f{n}"), Change::Value));
        let differences: Differences = many.collect();
        assert_eq!(differences.iter().count(), FIELDS_MAX + 1);
        assert!(differences.contain(&Field::others()));
    }
}
