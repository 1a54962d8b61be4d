//! The rewriting of a response's head on its way to a client.

use http::{HeaderValue, Version};
use tidegate::proxy::{ResponseAdditions, rewrite_response};

use super::head::{connection_names, parse, values};

/// What is about the endpoint's connection alone.
const GONE: [&str; 6] =
    ["connection", "keep-alive", "proxy-authenticate", "proxy-connection", "transfer-encoding", "upgrade"];

/// What the endpoint can't have removed by naming it.
const KEPT: [&str; 3] = ["authorization", "content-length", "te"];

/// The first line, which no field is in, is left out.
pub fn response_head(data: &[u8]) {
    let (_, received) = parse(data);
    let mut sent = received.clone();
    let additions = ResponseAdditions::default();
    rewrite_response(&mut sent, Version::HTTP_11, &additions, || HeaderValue::from_static("now"));
    for name in received.keys().chain(sent.keys()).map(http::HeaderName::as_str) {
        // In `Connection`, `close` isn't a field's name, even if a field has it.
        if name == "close" {
            continue;
        }
        let named = connection_names(&received, name) && !KEPT.contains(&name);
        let mut wanted = if GONE.contains(&name) || named { vec![] } else { values(&received, name) };
        if name == "date" && wanted.is_empty() {
            wanted = vec![b"now"];
        }
        assert_eq!(values(&sent, name), wanted, "{name}");
    }
    assert!(sent.contains_key("date"), "a response has a date");
}
