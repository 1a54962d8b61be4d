//! Kinds of content, as lists of them are written: `text/html`, `text/*`, `+json`.

use std::str::FromStr;

/// Some content types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentTypes(Vec<ContentType>);

/// One type, all of one kind, or all that end alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentType {
    Exact(Box<str>),
    /// `text/`
    Kind(Box<str>),
    /// `+json`
    Suffix(Box<str>),
}

/// What shrinks: text in all its forms, and fonts that aren't compressed by themselves.
const COMPRESSIBLE: [&str; 20] = [
    "text/*",
    "+json",
    "+xml",
    "+text",
    "+yaml",
    "application/json",
    "application/javascript",
    "application/x-javascript",
    "application/ecmascript",
    "application/xml",
    "application/x-ndjson",
    "application/yaml",
    "application/graphql",
    "application/sql",
    "application/wasm",
    "application/vnd.ms-fontobject",
    "font/ttf",
    "font/otf",
    "image/bmp",
    "image/x-icon",
];

impl FromStr for ContentType {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is_token = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b))
        };
        if let Some(suffix) = text.strip_prefix('+') {
            return if is_token(suffix) { Ok(Self::Suffix(text.into())) } else { Err(()) };
        }
        match text.split_once('/') {
            Some((kind, "*")) if is_token(kind) => Ok(Self::Kind(text[..=kind.len()].into())),
            Some((kind, subtype)) if is_token(kind) && is_token(subtype) => Ok(Self::Exact(text.into())),
            _ => Err(()),
        }
    }
}

impl ContentTypes {
    #[must_use]
    pub fn new(types: Vec<ContentType>) -> Self {
        Self(types)
    }

    /// Types that are worth compressing.
    #[must_use]
    pub fn compressible() -> Self {
        Self(COMPRESSIBLE.iter().map(|text| text.parse().expect("the list is made of types")).collect())
    }

    /// Whether a `Content-Type` is among them, whatever its parameters.
    #[must_use]
    pub fn contain(&self, content_type: &[u8]) -> bool {
        let end = content_type.iter().position(|b| *b == b';').unwrap_or(content_type.len());
        let found = content_type[..end].trim_ascii();
        self.0.iter().any(|known| match known {
            ContentType::Exact(name) => found.eq_ignore_ascii_case(name.as_bytes()),
            ContentType::Kind(kind) => {
                found.get(..kind.len()).is_some_and(|start| start.eq_ignore_ascii_case(kind.as_bytes()))
            }
            ContentType::Suffix(suffix) => {
                let start = found.len().checked_sub(suffix.len());
                start.is_some_and(|start| found[start..].eq_ignore_ascii_case(suffix.as_bytes()))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_all_its_forms_is_compressible_and_what_is_compressed_is_not() {
        let types = ContentTypes::compressible();
        for found in ["text/html", "Text/Plain; charset=utf-8", "application/JSON ;x", "image/svg+xml", "a/b+json"] {
            assert!(types.contain(found.as_bytes()), "{found}");
        }
        for found in ["", "text", "image/png", "video/mp4", "font/woff2", "application/octet-stream", "json", "xtext/a"]
        {
            assert!(!types.contain(found.as_bytes()), "{found}");
        }
    }

    #[test]
    fn only_types_kinds_and_suffixes_are_read() {
        for text in ["", "*", "*/*", "text", "text/", "/html", "+", "text/html; charset=utf-8", "a b/c", "te*t/x"] {
            assert_eq!(text.parse::<ContentType>(), Err(()), "{text}");
        }
    }
}
