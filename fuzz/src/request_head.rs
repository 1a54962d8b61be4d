//! The rewriting of a request's head on its way to an endpoint.

use http::uri::PathAndQuery;
use http::{HeaderMap, Request, Uri};
use tidegate::config::{Dialect, Trust};
use tidegate::model::ForwardedElement;
use tidegate::proxy::{ForwardedClient, Introduction, Origin, RequestNames, Trace, new_id, rewrite_request};

use super::head::{connection_names, parse, values};

const PEER: [u8; 4] = [203, 0, 113, 9];
const PEER_TEXT: &str = "203.0.113.9";

/// What reaches no endpoint, whoever says it, and whatever else is in the head.
const GONE: [&str; 9] = [
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy",
    "proxy-authorization",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
    "x-real-ip",
];

/// What is written anew, or put together.
const OURS: [&str; 10] = [
    "connection",
    "cookie",
    "forwarded",
    "host",
    "te",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-request-id",
];

/// What the sender can't have removed by naming it, besides those.
const KEPT: [&str; 5] = ["authorization", "content-length", "traceparent", "tracestate", "via"];

/// The first line is the target.
pub fn request_head(data: &[u8]) {
    let (target, headers) = parse(data);
    let Ok(uri) = Uri::try_from(target) else { return };
    let mut received = Request::new(());
    *received.uri_mut() = uri;
    *received.headers_mut() = headers;
    let proxies = vec!["203.0.113.0/24".parse().expect("a network")];
    let trusting = |dialect, client_cert| Trust { proxies: proxies.clone(), dialect, client_cert };
    for trust in [
        Trust::default(),
        trusting(Dialect::XForwarded, false),
        trusting(Dialect::Forwarded, true),
        trusting(Dialect::Both, true),
    ] {
        let trusted = !trust.proxies.is_empty();
        let mut request = received.clone();
        rewrite(&mut request, &trust);
        check_target(received.uri(), request.uri());
        check_ours(&received, request.headers(), trusted);
        check_others(received.headers(), request.headers(), &trust);
        if !trusted {
            let once = request.clone();
            rewrite(&mut request, &trust);
            assert_eq!(request.uri(), once.uri());
            assert_eq!(request.headers(), once.headers(), "there is something left to mend");
        }
    }
}

fn rewrite(request: &mut Request<()>, trust: &Trust) {
    let client = ForwardedClient::new(PEER.into(), true, 443, None);
    let names = RequestNames::of(request.headers());
    let introduction = Introduction {
        client: &client,
        origin: &Origin::of(&client, trust, request, names),
        request_id: &new_id([7; 16]),
        trace: &Trace::Untouched,
        via: None,
        forwarded: true,
        changes: None,
    };
    rewrite_request(request, names, &introduction);
}

fn check_target(received: &Uri, sent: &Uri) {
    assert_eq!(sent.authority(), None, "an endpoint of HTTP/1 expects a path");
    let path = received.path_and_query().map_or("/", PathAndQuery::as_str);
    let sent = sent.path_and_query().map_or("", PathAndQuery::as_str);
    // A query may stand alone behind an authority; it gets a path to stand behind.
    let goes_on = sent == path || (path.starts_with('?') && sent.strip_prefix('/') == Some(path));
    assert!(goes_on, "the path goes on as it came: {path:?}, {sent:?}");
}

fn check_ours(received: &Request<()>, sent: &HeaderMap, trusted: bool) {
    let trailers = values(sent, "te");
    assert!(trailers.is_empty() || trailers == [b"trailers"], "te is {trailers:?}");
    let connection = values(sent, "connection");
    assert!(if trailers.is_empty() { connection.is_empty() } else { connection == [b"te"] }, "{connection:?}");

    let host = values(sent, "host");
    assert!(received.uri().authority().is_some() || host == values(received.headers(), "host"), "the host is {host:?}");
    for name in ["x-forwarded-for", "x-forwarded-port", "x-forwarded-proto", "x-request-id", "forwarded"] {
        assert_eq!(values(sent, name).len(), 1, "{name} is said once");
    }
    let one = |name: &str| values(sent, name).concat();
    assert!([&b"http"[..], b"https"].contains(&&one("x-forwarded-proto")[..]));
    let port = String::from_utf8_lossy(&one("x-forwarded-port")).parse();
    assert!(port.is_ok_and(|port: u16| port > 0));
    let told = one("x-forwarded-for");
    assert_eq!(told.rsplit(|byte| *byte == b',').next().map(<[u8]>::trim_ascii), Some(PEER_TEXT.as_bytes()));
    if !trusted {
        assert_eq!(told, PEER_TEXT.as_bytes());
        assert_eq!(one("x-forwarded-proto"), b"https");
        assert_eq!(one("x-forwarded-port"), b"443");
        assert_eq!(values(sent, "x-forwarded-host"), host.get(..1).unwrap_or_default());
    }
    // Hosts that are none were refused before.
    let is_host = |text: &[u8]| text.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(byte));
    if is_host(&one("x-forwarded-host")) {
        let forwarded = one("forwarded");
        let forwarded = std::str::from_utf8(&forwarded).expect("forwarded is ASCII");
        let (before, last) = ForwardedElement::last_of(forwarded).expect("what we wrote can be read");
        assert_eq!(last.node.as_deref(), Some(PEER_TEXT), "{forwarded}");
        assert!(trusted || before.is_empty(), "{forwarded}");
    }
}

fn check_others(received: &HeaderMap, sent: &HeaderMap, trust: &Trust) {
    let crumbs = values(received, "cookie").join(&b"; "[..]);
    let wanted = if received.contains_key("cookie") { vec![&crumbs[..]] } else { vec![] };
    assert_eq!(values(sent, "cookie"), wanted);

    for name in received.keys().chain(sent.keys()).map(http::HeaderName::as_str) {
        // In `Connection`, `close` isn't a field's name, even if a field has it.
        if OURS.contains(&name) || name == "close" {
            continue;
        }
        let Reading { claim, certificate, alias } = Reading::of(name);
        let x_forwarded = !trust.proxies.is_empty() && trust.dialect != Dialect::Forwarded;
        let certificates = !trust.proxies.is_empty() && trust.client_cert;
        let gone = GONE.contains(&name) || alias || (claim && !x_forwarded) || (certificate && !certificates);
        let named = connection_names(received, name) && !KEPT.contains(&name) && !claim && !certificate;
        let wanted = if gone || named { vec![] } else { values(received, name) };
        assert_eq!(values(sent, name), wanted, "{name}");
    }
}

/// How a name reads to programs that take `_` and `.` for `-`.
struct Reading {
    /// What only a peer that is believed in `X-Forwarded-*` may say.
    claim: bool,
    /// What only a peer that is believed about certificates may say.
    certificate: bool,
    /// Such programs take it for another name, of ours.
    alias: bool,
}

impl Reading {
    fn of(name: &str) -> Self {
        let plain = name.replace(['_', '.'], "-");
        let (claim, certificate, ours) = match plain.as_str() {
            "client-cert" | "client-cert-chain" => (false, true, name.len()),
            plain if plain.starts_with("x-forwarded-client-cert") => (true, true, 23),
            plain if plain.starts_with("x-forwarded-tls-client-cert") => (true, true, 27),
            plain if plain.starts_with("x-forwarded-") && name.len() > 12 => (true, false, 12),
            "content-length" | "transfer-encoding" | "x-request-id" | "x-real-ip" => (false, false, name.len()),
            _ => (false, false, 0),
        };
        Self { claim, certificate, alias: plain[..ours] != name[..ours] }
    }
}
