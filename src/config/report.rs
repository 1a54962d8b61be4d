//! The problems found so far, and which keys are already known to be broken.

use std::collections::HashSet;
use std::path::Path;

use super::document::Document;
use super::key_path::KeyPath;
use super::problem::Problem;
use super::syntax::SyntaxError;

/// More are not helpful, and a machine-made file could have millions.
const PROBLEMS_MAX: usize = 1000;

/// Gathers problems in any order, gives them in the order of the file.
pub(super) struct Report<'a> {
    path: &'a Path,
    document: &'a Document<'a>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    /// Problems beyond [`PROBLEMS_MAX`].
    left_out: usize,
    /// Keys whose value is a placeholder.
    broken: HashSet<KeyPath>,
    /// Everything around a broken key.
    around_broken: HashSet<KeyPath>,
    /// Lines that are not TOML: what stands there is not what was meant.
    broken_lines: HashSet<usize>,
}

impl<'a> Report<'a> {
    pub(super) fn new(path: &'a Path, document: &'a Document<'a>) -> Self {
        Self {
            path,
            document,
            problems: Vec::new(),
            warnings: Vec::new(),
            left_out: 0,
            broken: HashSet::new(),
            around_broken: HashSet::new(),
            broken_lines: HashSet::new(),
        }
    }

    pub(super) fn syntax_error(&mut self, error: &SyntaxError) {
        let (line, column) = error.place.unzip();
        self.broken_lines.extend(line);
        let message = format!("this is not TOML: {}", error.message);
        self.push(Problem {
            line,
            column,
            hint: syntax_hint(&error.message).map(str::to_owned),
            ..Problem::whole_file(self.path, message, "")
        });
    }

    /// Something is wrong with the value at `at`. Passed over when that value is broken anyway.
    pub(super) fn problem(&mut self, at: &KeyPath, message: impl Into<String>, hint: impl Into<String>) {
        let line = self.document.line(at);
        if self.is_broken(at) || line.is_some_and(|line| self.broken_lines.contains(&line)) {
            return;
        }
        self.push(Problem { line, ..self.about(at, message.into(), hint.into()) });
    }

    /// Something that ought to be at `at`, or in it, isn't. Passed over when a part of it is broken, or parts of the
    /// file couldn't even be read: it may well be among them.
    pub(super) fn absent(&mut self, at: &KeyPath, message: impl Into<String>, hint: impl Into<String>) {
        if self.broken_lines.is_empty() && !self.has_broken_part(at) {
            self.problem(at, message, hint);
        }
    }

    /// A problem after which nothing more can be said about the value at `at`.
    pub(super) fn broken(&mut self, at: &KeyPath, message: impl Into<String>, hint: impl Into<String>) {
        self.problem(at, message, hint);
        self.mark_broken(at);
    }

    /// Nothing can be said about the value at `at`, for a reason told elsewhere.
    pub(super) fn mark_broken(&mut self, at: &KeyPath) {
        let mut around = at.parent();
        while let Some(path) = around {
            around = path.parent();
            if !self.around_broken.insert(path) {
                break;
            }
        }
        self.broken.insert(at.clone());
    }

    /// Whether the value at `at`, or something around it, is broken.
    pub(super) fn is_broken(&self, at: &KeyPath) -> bool {
        std::iter::successors(Some(at.clone()), KeyPath::parent).any(|path| self.broken.contains(&path))
    }

    /// Whether something inside the value at `at` is broken.
    pub(super) fn has_broken_part(&self, at: &KeyPath) -> bool {
        self.around_broken.contains(at)
    }

    pub(super) fn warning(&mut self, at: &KeyPath, message: impl Into<String>, hint: impl Into<String>) {
        if !self.is_broken(at) && self.warnings.len() < PROBLEMS_MAX {
            let warning = self.about(at, message.into(), hint.into());
            self.warnings.push(warning);
        }
    }

    /// The schema let something pass that the file's shapes refuse: a mistake of this program, told all the same.
    pub(super) fn unforeseen(&mut self, error: &serde_json::Error) {
        let hint = "this message should have named the key; please report it";
        self.push(Problem::whole_file(self.path, error.to_string(), hint));
    }

    /// Problems and warnings, each in the order of the file; what is about the whole file comes first.
    pub(super) fn finish(mut self) -> (Vec<Problem>, Vec<Problem>) {
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        self.warnings.sort_by_key(|warning| warning.line);
        if self.left_out > 0 {
            let message = format!("there are {} more problems", self.left_out);
            self.problems.push(Problem::whole_file(self.path, message, "mend these first"));
        }
        (self.problems, self.warnings)
    }

    /// How the place at `at` is called when another problem mentions it.
    pub(super) fn place(&self, at: &KeyPath) -> String {
        match self.document.line(at) {
            Some(line) => format!("{at} (line {line})"),
            None => at.to_string(),
        }
    }

    fn about(&self, at: &KeyPath, message: String, hint: String) -> Problem {
        Problem {
            line: self.document.line(at),
            key: at.to_string(),
            hint: Some(hint).filter(|hint| !hint.is_empty()),
            ..Problem::whole_file(self.path, message, "")
        }
    }

    fn push(&mut self, problem: Problem) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        } else {
            self.left_out += 1;
        }
    }
}

/// The usual slip behind a message of the TOML parser.
fn syntax_hint(message: &str) -> Option<&'static str> {
    [
        ("key with no value", "write key = value; texts stand in \"quotes\""),
        ("string values must be quoted", "write a value after the =; texts stand in \"quotes\""),
        ("unclosed array table", "a header like [[listeners]] stands alone on its line"),
        ("unclosed table", "a table's header stands alone on its line: [services.shop]"),
        ("unclosed array", "close the list with ]"),
        ("missing comma", "separate the parts with commas, and close the list with ]"),
        ("duplicate key", "the same key or table stands in the file twice; remove one"),
        ("invalid literal string", "texts begin and end with ' on the same line"),
        ("invalid basic string", "texts begin and end with \" on the same line"),
        ("max recursion depth", "no key of this file is nested this deeply"),
    ]
    .into_iter()
    .find_map(|(part, hint)| message.contains(part).then_some(hint))
}
