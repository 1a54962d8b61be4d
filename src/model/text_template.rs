//! Text with names in braces: `"{service}: {text}"`. A brace that is meant is doubled.

use std::fmt;

/// Parsed once, filled in often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextTemplate(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Name(String),
}

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextTemplateError {
    /// A brace without its other one.
    Lonely(char),
    /// What stands in braces is no name.
    NoName(String),
}

impl fmt::Display for TextTemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lonely(brace) => write!(f, "there is a {brace} without its other one"),
            Self::NoName(text) => write!(f, "{{{text}}} is no name: letters, digits and _"),
        }
    }
}

impl std::error::Error for TextTemplateError {}

impl TextTemplate {
    /// # Errors
    /// When braces don't fit, or hold no name.
    pub fn parse(source: &str) -> Result<Self, TextTemplateError> {
        let (mut pieces, mut text, mut rest) = (Vec::new(), String::new(), source);
        while let Some(at) = rest.find(['{', '}']) {
            text.push_str(&rest[..at]);
            let brace = if rest[at..].starts_with('{') { '{' } else { '}' };
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                text.push(brace);
                rest = after;
                continue;
            }
            let end = rest.find('}').filter(|_| brace == '{').ok_or(TextTemplateError::Lonely(brace))?;
            let name = &rest[..end];
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Err(TextTemplateError::NoName(name.to_owned()));
            }
            pieces.push(Piece::Text(std::mem::take(&mut text)));
            pieces.push(Piece::Name(name.to_owned()));
            rest = &rest[end + 1..];
        }
        text.push_str(rest);
        pieces.push(Piece::Text(text));
        Ok(Self(pieces))
    }

    /// The text, with each name replaced by what it stands for.
    #[must_use]
    pub fn fill(&self, value: impl Fn(&str) -> String) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Name(name) => value(name),
        };
        self.0.iter().map(piece).collect()
    }
}

/// `text` with these names filled in where they stand in braces. Other braces mean something else, to a shell or in a query,
/// and so do those of a value.
#[must_use]
pub fn filled(text: &str, values: &[(&str, &str)]) -> String {
    let (mut filled, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find('{') {
        filled.push_str(&rest[..at]);
        rest = &rest[at..];
        let known = values.iter().find_map(|(name, value)| {
            let after = rest[1..].strip_prefix(name)?.strip_prefix('}')?;
            Some((value, after))
        });
        match known {
            Some((value, after)) => {
                filled.push_str(value);
                rest = after;
            }
            None => {
                filled.push('{');
                rest = &rest[1..];
            }
        }
    }
    filled + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_filled_in_and_doubled_braces_are_braces() {
        let template = TextTemplate::parse("{{{service}}}: {text}!").unwrap();
        assert_eq!(template.fill(str::to_uppercase), "{SERVICE}: TEXT!");
        assert_eq!(TextTemplate::parse("").unwrap().fill(|_| String::new()), "");
    }

    #[test]
    fn known_names_are_filled_in_and_other_braces_stay_as_they_are() {
        let values = [("host", "{port}"), ("port", "80")];
        assert_eq!(filled("{host}:{port} ${x} {} {host {{port}} {", &values), "{port}:80 ${x} {} {host {80} {");
        assert_eq!(filled("", &values), "");
    }

    #[test]
    fn braces_that_do_not_fit_are_refused() {
        assert_eq!(TextTemplate::parse("{a"), Err(TextTemplateError::Lonely('{')));
        assert_eq!(TextTemplate::parse("a}"), Err(TextTemplateError::Lonely('}')));
        assert_eq!(TextTemplate::parse("{a b}"), Err(TextTemplateError::NoName("a b".into())));
        assert_eq!(TextTemplate::parse("{}"), Err(TextTemplateError::NoName(String::new())));
    }
}
