//! Pages with placeholders, taken apart once: `{status}`, `{title}` and `{request_id}`. Any other brace stands for
//! itself, so that style sheets and JSON need no escapes.

use bytes::Bytes;

/// What a page is written in, and so what its values must be escaped for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageKind {
    Html,
    Json,
}

/// A page, ready to be filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    kind: PageKind,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(Bytes),
    Status,
    Title,
    RequestId,
}

const PLACEHOLDERS: [(&str, Piece); 3] =
    [("{status}", Piece::Status), ("{title}", Piece::Title), ("{request_id}", Piece::RequestId)];

/// What a page is filled in with.
#[derive(Debug, Clone, Copy)]
pub struct PageValues<'a> {
    pub status: u16,
    pub title: &'a str,
    /// Empty where there is none.
    pub request_id: &'a str,
}

impl Page {
    #[must_use]
    pub fn new(kind: PageKind, text: &str) -> Self {
        let mut pieces = Vec::new();
        let (mut literal, mut rest) = (0, 0);
        while let Some(at) = text[rest..].find('{').map(|at| at + rest) {
            let Some((name, piece)) = PLACEHOLDERS.iter().find(|(name, _)| text[at..].starts_with(name)) else {
                rest = at + 1;
                continue;
            };
            if at > literal {
                pieces.push(Piece::Literal(Bytes::copy_from_slice(&text.as_bytes()[literal..at])));
            }
            pieces.push(piece.clone());
            rest = at + name.len();
            literal = rest;
        }
        if text.len() > literal {
            pieces.push(Piece::Literal(Bytes::copy_from_slice(&text.as_bytes()[literal..])));
        }
        Self { kind, pieces }
    }

    /// The page with its values. One without placeholders is shared, not copied.
    #[must_use]
    pub fn fill(&self, values: PageValues<'_>) -> Bytes {
        if let [Piece::Literal(page)] = &self.pieces[..] {
            return page.clone();
        }
        let mut page = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => page.extend_from_slice(text),
                Piece::Status => page.extend_from_slice(values.status.to_string().as_bytes()),
                Piece::Title => self.escape(values.title, &mut page),
                Piece::RequestId => self.escape(values.request_id, &mut page),
            }
        }
        page.into()
    }

    fn escape(&self, text: &str, page: &mut Vec<u8>) {
        match self.kind {
            PageKind::Html => {
                for byte in text.bytes() {
                    match byte {
                        b'&' => page.extend_from_slice(b"&amp;"),
                        b'<' => page.extend_from_slice(b"&lt;"),
                        b'>' => page.extend_from_slice(b"&gt;"),
                        b'"' => page.extend_from_slice(b"&quot;"),
                        b'\'' => page.extend_from_slice(b"&#39;"),
                        byte => page.push(byte),
                    }
                }
            }
            PageKind::Json => {
                let quoted = serde_json::Value::from(text).to_string();
                page.extend_from_slice(&quoted.as_bytes()[1..quoted.len() - 1]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(kind: PageKind, text: &str) -> String {
        let values = PageValues { status: 502, title: "Bad <Gateway>", request_id: "a\"b\\'&\n" };
        String::from_utf8(Page::new(kind, text).fill(values).to_vec()).unwrap()
    }

    #[test]
    fn placeholders_are_filled_in_and_escaped_for_their_page() {
        let html = "<style>p { margin: 0 }</style><p title='{request_id}'>{status}: {title}{title}";
        let shown = "<style>p { margin: 0 }</style><p title='a&quot;b\\&#39;&amp;\n'>502: Bad &lt;Gateway&gt;Bad &lt;Gateway&gt;";
        assert_eq!(filled(PageKind::Html, html), shown);
        let json = r#"{"status":{status},"id":"{request_id}"}"#;
        assert_eq!(filled(PageKind::Json, json), r#"{"status":502,"id":"a\"b\\'&\n"}"#);
    }

    #[test]
    fn what_is_no_placeholder_stands_for_itself() {
        for text in ["", "{", "{}", "{{status", "{Status}", "{ status }", "é{é}", "status}"] {
            assert_eq!(filled(PageKind::Html, text), text);
        }
        assert_eq!(filled(PageKind::Html, "{{status}}"), "{502}");
    }

    #[test]
    fn a_page_without_placeholders_is_not_copied() {
        let page = Page::new(PageKind::Html, "<p>gone");
        let values = PageValues { status: 503, title: "", request_id: "" };
        assert_eq!(page.fill(values).as_ptr(), page.fill(values).as_ptr());
    }
}
