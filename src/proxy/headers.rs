//! What changes in the headers on their way: what is about one connection only goes, what tells the endpoint
//! about its client comes. Removal first, then ours, so that a client can't name ours in its `Connection`.

use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, DATE, HOST, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Uri};

use super::target::without_user;
use crate::model::Format;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What an endpoint is told about the client that a request comes from.
#[derive(Debug, Clone)]
pub struct ForwardedClient {
    /// The client's address, formatted once for all of its requests.
    pub address: HeaderValue,
    /// The client speaks TLS to us.
    pub secure: bool,
}

/// How often a request's head has the names that matter, counted in one pass: asking the map for each would cost a
/// hash a name.
#[derive(Debug, Default, Clone, Copy)]
pub struct RequestNames {
    pub(super) hosts: u16,
    pub(super) upgrades: u16,
    pub(super) connections: u16,
    tes: u16,
    cookies: u16,
    /// What our own answers had better be: not text where any line of `Accept` wants that.
    pub(super) format: Format,
    /// Those and others that don't go on.
    dropped: u16,
}

impl RequestNames {
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        // A map holds at most 32,768 fields.
        let mut names = Self::default();
        for (name, value) in headers {
            let name = name.as_str();
            match name {
                "host" => names.hosts += 1,
                "cookie" => names.cookies += 1,
                "connection" => names.connections += 1,
                "te" => names.tes += 1,
                "upgrade" => names.upgrades += 1,
                "accept" if names.format == Format::Text => names.format = Format::wanted_by(value.as_bytes()),
                _ => {}
            }
            names.dropped += u16::from(is_dropped_from_request(name));
        }
        names
    }
}

/// Headers about the client's connection, and headers that claim what only we can know. `te` is put back for
/// trailers; `expect` is answered by us, with a 100 as soon as the endpoint's connection takes the body.
fn is_dropped_from_request(name: &str) -> bool {
    matches!(
        name,
        "expect"
            | "forwarded"
            | "http2-settings"
            | "keep-alive"
            | "proxy"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-port"
            | "x-forwarded-proto"
            | "x-real-ip"
    )
}

fn is_dropped_from_response(name: &str) -> bool {
    matches!(name, "keep-alive" | "proxy-authenticate" | "proxy-connection" | "transfer-encoding" | "upgrade")
}

/// Makes a client's request head into what any endpoint may see; `names` are the head's own.
pub fn rewrite_request<B>(request: &mut Request<B>, names: RequestNames, client: &ForwardedClient) {
    if let Some(authority) = request.uri().authority() {
        // Bytes of a URI's authority are all allowed in a header.
        if let Ok(host) = HeaderValue::try_from(without_user(authority.as_str())) {
            request.headers_mut().insert(HOST, host);
        }
        *request.uri_mut() = origin_form(request.uri());
    }
    let headers = request.headers_mut();
    let takes_trailers = names.tes > 0 && headers.get(TE).is_some_and(names_trailers);
    if names.connections > 0 {
        remove_connection(headers);
    }
    if names.dropped > 0 {
        remove(headers, is_dropped_from_request);
    }
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if names.cookies > 1 {
        join_cookies(headers);
    }
    if let Some(host) = headers.get(HOST).cloned() {
        headers.insert(FORWARDED_HOST, host);
    }
    headers.insert(FORWARDED_FOR, client.address.clone());
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(if client.secure { "https" } else { "http" }));
}

/// Makes an endpoint's response head into what any client may see; `date` is for endpoints without a clock.
pub fn rewrite_response(headers: &mut HeaderMap, date: impl FnOnce() -> HeaderValue) {
    let (mut connection, mut dropped, mut dated) = (false, false, false);
    for name in headers.keys() {
        match name.as_str() {
            "date" => dated = true,
            "connection" => connection = true,
            name => dropped |= is_dropped_from_response(name),
        }
    }
    if connection {
        remove_connection(headers);
    }
    if dropped {
        remove(headers, is_dropped_from_response);
    }
    if !dated {
        headers.insert(DATE, date());
    }
}

/// Removes `Connection` and the headers that it names. `Host` and the headers that frame the message are not the
/// sender's to drop.
fn remove_connection(headers: &mut HeaderMap) {
    let lines = headers.get_all(CONNECTION).iter().map(HeaderValue::as_bytes);
    let listed: Vec<HeaderName> = lines
        // Nearly every line is one of these two.
        .filter(|line| !line.eq_ignore_ascii_case(b"keep-alive") && !line.eq_ignore_ascii_case(b"close"))
        .flat_map(|line| line.split(|b| *b == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        .filter(|name| !matches!(*name, HOST | CONTENT_LENGTH | TRANSFER_ENCODING | UPGRADE | TE))
        .collect();
    headers.remove(CONNECTION);
    for name in listed {
        headers.remove(name);
    }
}

fn remove(headers: &mut HeaderMap, dropped: impl Fn(&str) -> bool) {
    // The names that can be dropped are few, so this ends soon whatever the head.
    while let Some(name) = headers.keys().find(|name| dropped(name.as_str())).cloned() {
        headers.remove(name);
    }
}

/// HTTP/2 may send one cookie a line; HTTP/1 servers expect one line (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (lines.next(), lines.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for line in std::iter::once(second).chain(lines) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(line.as_bytes());
    }
    if let Ok(joined) = HeaderValue::try_from(joined) {
        headers.insert(COOKIE, joined);
    }
}

fn names_trailers(te: &HeaderValue) -> bool {
    te.to_str().is_ok_and(|te| te.split(',').any(|token| token.trim().eq_ignore_ascii_case("trailers")))
}

/// Path and query alone, as HTTP/1 servers expect them.
fn origin_form(uri: &Uri) -> Uri {
    let path = uri.path_and_query().cloned().unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    Uri::from(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&str, &str)]) -> HeaderMap {
        let pairs = headers.iter();
        pairs
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
            .collect()
    }

    #[test]
    fn names_listed_in_connection_go_with_it() {
        let mut headers = map(&[("connection", "close, X-One"), ("x-one", "1"), ("x-two", "2"), ("host", "a")]);
        headers.append(CONNECTION, HeaderValue::from_static("x-two, host, content-length"));
        headers.insert("content-length", HeaderValue::from_static("3"));
        rewrite_response(&mut headers, || HeaderValue::from_static("now"));
        assert_eq!(headers, map(&[("host", "a"), ("content-length", "3"), ("date", "now")]));
    }

    #[test]
    fn an_endpoints_own_date_is_kept() {
        let mut headers = map(&[("date", "then"), ("set-cookie", "a=1"), ("keep-alive", "timeout=5")]);
        headers.append("set-cookie", HeaderValue::from_static("b=2"));
        rewrite_response(&mut headers, || unreachable!("there is a date"));
        assert_eq!(headers.get("date").unwrap(), "then");
        assert_eq!(headers.get_all("set-cookie").iter().count(), 2);
        assert!(!headers.contains_key("keep-alive"));
    }

    #[test]
    fn cookie_crumbs_become_one_line() {
        let mut headers = map(&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")]);
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }

    #[test]
    fn trailers_are_asked_for_only_where_the_client_did() {
        assert!(names_trailers(&HeaderValue::from_static("gzip, Trailers")));
        assert!(!names_trailers(&HeaderValue::from_static("deflate")));
    }

    #[test]
    fn an_absolute_uri_is_cut_to_its_path() {
        assert_eq!(origin_form(&Uri::from_static("https://a.test/x?y=1")), "/x?y=1");
        assert_eq!(origin_form(&Uri::from_static("https://a.test")), "/");
    }
}
