//! What of a message's trailers goes on. They come after the head was checked and rewritten, and some programs merge
//! them into it; so nothing may stand there that would have been dropped, replaced or acted upon in a head
//! (RFC 9110, 6.5.1).

use http::{HeaderMap, HeaderName};

use super::headers::remove;
use super::names::Kind;

/// Towards an endpoint nothing goes that we know ourselves.
pub(super) fn clean_request(trailers: &mut HeaderMap) {
    clean(trailers, |name| Kind::of(name) == Kind::Other);
}

/// Towards a client an id or a trace claims nothing, and gRPC servers may send one as metadata.
pub(super) fn clean_response(trailers: &mut HeaderMap) {
    clean(trailers, |name| matches!(Kind::of(name), Kind::Other | Kind::Replaced | Kind::Trace));
}

/// Few have more than a handful, so that each is looked at.
fn clean(trailers: &mut HeaderMap, passes: impl Fn(&HeaderName) -> bool) {
    let goes = |name: &HeaderName| !passes(name) || belongs_in_head(name);
    if trailers.keys().any(goes) {
        remove(trailers, goes);
    }
}

/// What says how a message is to be handled, before its content is; what frames, routes or lets somebody in is known
/// to [`Kind`] already.
fn belongs_in_head(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "age"
            | "cache-control"
            | "content-encoding"
            | "content-range"
            | "content-type"
            | "date"
            | "expires"
            | "if-match"
            | "if-modified-since"
            | "if-none-match"
            | "if-range"
            | "if-unmodified-since"
            | "location"
            | "max-forwards"
            | "pragma"
            | "proxy-authenticate"
            | "range"
            | "retry-after"
            | "set-cookie"
            | "strict-transport-security"
            | "trailer"
            | "vary"
            | "www-authenticate"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(names: &[&'static str], clean: fn(&mut HeaderMap)) -> Vec<String> {
        let mut trailers: HeaderMap =
            names.iter().map(|name| (HeaderName::from_static(name), "1".parse().unwrap())).collect();
        clean(&mut trailers);
        let mut left: Vec<String> = trailers.keys().map(ToString::to_string).collect();
        left.sort();
        left
    }

    #[test]
    fn what_is_for_heads_alone_goes_in_either_direction() {
        for name in [
            "content-length",
            "content_length",
            "transfer-encoding",
            "host",
            "connection",
            "te",
            "trailer",
            "keep-alive",
            "upgrade",
            "authorization",
            "proxy-authorization",
            "cookie",
            "set-cookie",
            "www-authenticate",
            "via",
            "forwarded",
            "x-real-ip",
            "client-cert",
            "x-forwarded-user",
            "content-encoding",
            "range",
            "if-match",
            "cache-control",
        ] {
            assert_eq!(left(&[name, "x-sum"], clean_request), ["x-sum"], "{name}");
            assert_eq!(left(&[name, "x-sum"], clean_response), ["x-sum"], "{name}");
        }
    }

    #[test]
    fn ids_and_traces_pass_to_clients_alone() {
        let names = ["etag", "grpc-status", "repr-digest", "traceparent", "x-forwarded-for", "x-request-id"];
        assert_eq!(left(&names, clean_request), ["etag", "grpc-status", "repr-digest"]);
        assert_eq!(left(&names, clean_response), names);
    }
}
