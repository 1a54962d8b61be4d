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

/// What is used where nothing is configured: without a request's id, and with one.
struct BuiltIn {
    html: [Page; 2],
    json: [Page; 2],
}

static BUILT_IN: LazyLock<BuiltIn> = LazyLock::new(|| {
    let html = |id: &str| Page::new(PageKind::Html, &include_str!("error.html").replace("<!-- id -->\n", id));
    let json = |id: &str| {
        let page = format!(r#"{{"type":"about:blank","title":"{{title}}","status":{{status}}{id}}}"#);
        Page::new(PageKind::Json, &(page + "\n"))
    };
    BuiltIn {
        html: [html(""), html("<p>Request <code>{request_id}</code></p>\n")],
        json: [json(""), json(r#","request_id":"{request_id}""#)],
    }
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
    request_id: Option<&HeaderValue>,
) -> (HeaderValue, Bytes) {
    let title = status.canonical_reason().unwrap_or("Error");
    let id = request_id.and_then(|id| id.to_str().ok());
    let values = PageValues { status: status.as_u16(), title, request_id: id.unwrap_or_default() };
    let with_id = usize::from(id.is_some());
    match (format, configured) {
        (Format::Text, _) => (TEXT, format!("{} {title}\n", status.as_str()).into()),
        (Format::Html, Configured { html: Some(page), .. }) => (HTML, page.fill(values)),
        (Format::Html, _) => (HTML, BUILT_IN.html[with_id].fill(values)),
        (Format::Json, Configured { json: Some(page), .. }) => (JSON, page.fill(values)),
        (Format::Json, _) => (PROBLEM, BUILT_IN.json[with_id].fill(values)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built_in(format: Format, id: Option<&'static str>) -> (HeaderValue, String) {
        let id = id.map(HeaderValue::from_static);
        let none = Configured { html: None, json: None };
        let (kind, body) = write(format, none, StatusCode::BAD_GATEWAY, id.as_ref());
        (kind, String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn the_built_in_pages_say_the_status_and_the_id_where_there_is_one() {
        assert_eq!(built_in(Format::Text, Some("a-1")), (TEXT, "502 Bad Gateway\n".to_owned()));
        let (kind, page) = built_in(Format::Html, None);
        assert_eq!(kind, HTML);
        assert!(page.contains("<title>502 Bad Gateway</title>") && !page.contains("Request"), "{page}");
        let (_, page) = built_in(Format::Html, Some("a-<1>"));
        assert!(page.contains("<code>a-&lt;1&gt;</code>") && !page.contains("<!--"), "{page}");
        let (kind, problem) = built_in(Format::Json, None);
        assert_eq!(kind, PROBLEM);
        assert_eq!(problem, "{\"type\":\"about:blank\",\"title\":\"Bad Gateway\",\"status\":502}\n");
        let (_, problem) = built_in(Format::Json, Some("a\"1"));
        let problem: serde_json::Value = serde_json::from_str(&problem).unwrap();
        assert_eq!(problem["request_id"], "a\"1");
    }
}
