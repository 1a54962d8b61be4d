//! Where the text is not TOML: all such places, not only the first.
//!
//! After some slips the parser passes over the rest of the file. Those that stay on one line (a header or text that
//! isn't closed, a key without a value) are therefore mended in a copy, which is parsed again for what comes after.
//! Lines keep their numbers, and what was on a mended line is never reported again.

use std::borrow::Cow;

use super::document::Document;

/// As many slips are looked past. Nobody makes more in one edit, and each costs a parsing of the file.
const MENDS_MAX: usize = 50;

/// Above this size one parsing has to do.
const MENDED_BYTES_MAX: usize = 1 << 20;

/// What the parser says of a header that isn't closed.
const HEADERS: [&str; 2] = ["unclosed table", "unclosed array table"];

/// What it says of a key or value that ends with its line.
const VALUES: [&str; 4] =
    ["key with no value", "values must be quoted", "invalid basic string", "invalid literal string"];

/// One place where the text is not TOML.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) message: String,
    /// Line and column, both from 1.
    pub(super) place: Option<(usize, usize)>,
}

/// Every place where `source` is not TOML, and the text with as many of them mended as can be.
pub(super) fn mend(source: &str) -> (Cow<'_, str>, Vec<SyntaxError>) {
    let mut text = Cow::Borrowed(source);
    let mut found: Vec<SyntaxError> = Vec::new();
    while found.len() < MENDS_MAX {
        let mut errors = Document::parse(&text).1.into_iter();
        let Some(first) = errors.next() else { break };
        let Some((line, _)) = first.place.filter(|_| is_on_one_line(&first) && source.len() <= MENDED_BYTES_MAX) else {
            found.push(first);
            found.extend(errors);
            break;
        };
        // Seen before: the header was closed, and it still isn't one.
        let again = found.iter().any(|known| known.place.is_some_and(|(known, _)| known == line));
        let is_header = HEADERS.iter().any(|part| first.message.contains(part)) && !again;
        let Some(mended) = mend_line(&text, line, is_header) else { break };
        text = Cow::Owned(mended);
        if !again {
            found.push(first);
        }
    }
    found.sort_by_key(|error| error.place);
    found.dedup_by_key(|error| error.place.map(|(line, _)| line));
    (text, found)
}

/// Whether the slip can be mended without a look at other lines.
fn is_on_one_line(error: &SyntaxError) -> bool {
    HEADERS.iter().chain(&VALUES).any(|part| error.message.contains(part))
}

/// The text with the header on `line` closed, or with nothing on that line. `None` when there was nothing already.
fn mend_line(text: &str, line: usize, is_header: bool) -> Option<String> {
    let start = text.split_inclusive('\n').take(line - 1).map(str::len).sum::<usize>();
    let length = text[start..].find('\n').unwrap_or(text.len() - start);
    let (before, old, after) = (&text[..start], &text[start..start + length], &text[start + length..]);
    let old = old.trim().trim_end_matches(']');
    let close = if old.starts_with("[[") { "]]" } else { "]" };
    match (old, is_header) {
        ("", _) => None,
        (old, true) => Some([before, old, close, after].concat()),
        (_, false) => Some([before, after].concat()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(source: &str) -> Vec<usize> {
        mend(source).1.iter().filter_map(|error| error.place).map(|(line, _)| line).collect()
    }

    #[test]
    fn every_slip_is_found_and_none_that_only_follows_from_another() {
        assert!(lines("a = 1\n[b]\nc = 2\n").is_empty());
        assert_eq!(lines("[a\nb = \"x\nc 1\n[[d]\ne =\nf = 'g\n[h]\ni = 1"), [1, 2, 3, 4, 5, 6]);
        assert_eq!(lines("a = [1, 2\nb = 3\n"), [2]);
        assert_eq!(lines("[a # b\nc = 1"), [1]);
        assert_eq!(lines("a = \"\"\"x\ny = 1\n"), [3]);
    }

    #[test]
    fn what_comes_after_a_slip_is_still_read() {
        let (text, _) = mend("[[a]\nb = 1\nc =\nd = 2\n");
        assert_eq!(text, "[[a]]\nb = 1\n\nd = 2\n");
    }
}
