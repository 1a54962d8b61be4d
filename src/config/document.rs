//! The TOML text as a tree that knows the place of every key and value.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::key_path::{KeyPath, Step};
use super::syntax::SyntaxError;

/// A parsed file. Where the text is broken, the tree holds what could be understood.
pub(super) struct Document<'s> {
    source: &'s str,
    table: Spanned<DeTable<'s>>,
    /// Byte offsets at which lines begin.
    lines: Vec<usize>,
}

impl<'s> Document<'s> {
    /// What could be understood, and the first error of each line.
    pub(super) fn parse(source: &'s str) -> (Self, Vec<SyntaxError>) {
        let (table, errors) = DeTable::parse_recoverable(source);
        let lines = std::iter::once(0).chain(source.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let document = Self { source, table, lines };
        let mut errors: Vec<SyntaxError> = errors
            .iter()
            .map(|error| SyntaxError {
                message: error.message().to_owned(),
                place: error.span().map(|span| document.place(span.start)),
            })
            .collect();
        // One slip often makes the parser stumble several times in a row; the first of each line says it.
        errors.sort_by_key(|error| error.place);
        errors.dedup_by_key(|error| error.place.map(|(line, _)| line));
        (document, errors)
    }

    pub(super) fn table(&self) -> &DeTable<'s> {
        self.table.get_ref()
    }

    /// The line, from 1, of the value at `path`, or of the closest thing around it that exists. `None` for the
    /// file as a whole.
    pub(super) fn line(&self, path: &KeyPath) -> Option<usize> {
        let mut found: Option<Range<usize>> = None;
        let mut table = Some(self.table.get_ref());
        let mut array = None;
        for step in path.steps() {
            let next = match step {
                Step::Key(key) => table.and_then(|table| table.get(key.as_str())),
                Step::Index(index) => array.and_then(|array: &toml::de::DeArray<'s>| array.get(*index)),
            };
            let Some(next) = next else { break };
            found = Some(next.span());
            table = next.get_ref().as_table();
            array = next.get_ref().as_array();
        }
        found.map(|span| self.place(span.start).0)
    }

    /// Line and column, both from 1, of a byte offset.
    fn place(&self, offset: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines[line - 1];
        let before = self.source.get(start..offset).unwrap_or_default();
        (line, before.trim_start_matches('\u{feff}').chars().count() + 1)
    }
}

/// What a TOML value is, for sentences like "not a text".
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
