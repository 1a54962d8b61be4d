//! The bodies of answers that tidegate makes itself, in the format that the client wants most. They tell a stranger
//! the status, and a way to name the request to the operator; the reason is in the access log.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use crate::model::{Format, Page, PageKind, PageValues};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// RFC 9457.
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

static BUILT_IN_HTML: LazyLock<Page> = LazyLock::new(|| Page::new(PageKind::Html, include_str!("error.html")));
static BUILT_IN_JSON: LazyLock<Page> = LazyLock::new(|| {
    let page = r#"{"type":"about:blank","title":"{title}","status":{status},"request_id":"{request_id}"}"#;
    Page::new(PageKind::Json, &format!("{page}\n"))
});

/// Pages from the configuration; `None`: what is built in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Configured<'a> {
    pub(super) html: Option<&'a Page>,
    pub(super) json: Option<&'a Page>,
}

/// The content type and the body.
pub(super) fn write(
    format: Format,
    configured: Configured<'_>,
    status: StatusCode,
    request_id: &str,
) -> (HeaderValue, Bytes) {
    let title = status.canonical_reason().unwrap_or("Error");
    let values = PageValues { status: status.as_u16(), title, request_id };
    match (format, configured) {
        (Format::Text, _) => (TEXT, format!("{} {title}\n", status.as_str()).into()),
        (Format::Html, Configured { html: Some(page), .. }) => (HTML, page.fill(values)),
        (Format::Html, _) => (HTML, BUILT_IN_HTML.fill(values)),
        (Format::Json, Configured { json: Some(page), .. }) => (JSON, page.fill(values)),
        (Format::Json, _) => (PROBLEM, BUILT_IN_JSON.fill(values)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built_in(format: Format, id: &str) -> (HeaderValue, String) {
        let none = Configured { html: None, json: None };
        let (kind, body) = write(format, none, StatusCode::BAD_GATEWAY, id);
        (kind, String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn the_built_in_pages_say_the_status_and_the_id() {
        assert_eq!(built_in(Format::Text, "a-1"), (TEXT, "502 Bad Gateway\n".to_owned()));
        let (kind, page) = built_in(Format::Html, "a-<1>");
        assert_eq!(kind, HTML);
        assert!(page.contains("<title>502 Bad Gateway</title>"), "{page}");
        assert!(page.contains("<code>a-&lt;1&gt;</code>"), "{page}");
        let (kind, problem) = built_in(Format::Json, "a\"1");
        assert_eq!(kind, PROBLEM);
        let problem: serde_json::Value = serde_json::from_str(&problem).unwrap();
        let wanted = serde_json::json!({
            "type": "about:blank", "title": "Bad Gateway", "status": 502, "request_id": "a\"1"
        });
        assert_eq!(problem, wanted);
    }
}
