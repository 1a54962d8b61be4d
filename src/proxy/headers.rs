//! What changes in the headers on their way: what is about one connection only goes, what tells the endpoint
//! about its client comes. Removal first, then ours, so that a client can't name ours in its `Connection`; last,
//! what the service wants changed.

use std::net::IpAddr;

use http::header::{CONNECTION, COOKIE, DATE, FORWARDED, HOST, HeaderName, TE};
use http::{HeaderMap, HeaderValue, Request, Uri, Version};

use super::identifiers::{TRACEPARENT, TRACESTATE, Trace, X_REQUEST_ID};
use super::names::{Kind, RequestNames};
use super::origin::Origin;
use super::target::without_user;
use crate::model::{HeaderChanges, Via, write_forwarded};
use crate::tls::ClientCertificate;

const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
const CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");
pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub(super) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What an endpoint is told about the connection that a request comes on, written once for all of its requests.
#[derive(Debug, Clone)]
pub struct ForwardedClient {
    pub(super) ip: IpAddr,
    pub(super) address: HeaderValue,
    /// The port that the client connected to.
    pub(super) port: HeaderValue,
    /// The peer speaks TLS to us.
    pub(super) secure: bool,
    /// What the client showed in its handshake.
    pub(super) certificate: Option<Box<ClientCertificate>>,
}

impl ForwardedClient {
    #[must_use]
    pub fn new(ip: IpAddr, secure: bool, port: u16, certificate: Option<ClientCertificate>) -> Self {
        let address = HeaderValue::try_from(written(ip)).expect("an address is plain ASCII");
        Self { ip, address, port: port.into(), secure, certificate: certificate.map(Box::new) }
    }
}

/// An address in its usual form. Every connection needs it, and the standard library's way to write the common kind costs
/// ten times as much.
fn written(ip: IpAddr) -> String {
    let IpAddr::V4(v4) = ip else { return ip.to_string() };
    let mut text = String::with_capacity("255.255.255.255".len());
    for (index, octet) in v4.octets().into_iter().enumerate() {
        if index > 0 {
            text.push('.');
        }
        for (power, at_least) in [(100, 100), (10, 10), (1, 0)] {
            if octet >= at_least {
                text.push(char::from(b'0' + octet / power % 10));
            }
        }
    }
    text
}

/// How a request is introduced to its endpoint.
#[derive(Debug)]
pub struct Introduction<'a> {
    pub client: &'a ForwardedClient,
    pub origin: &'a Origin,
    pub request_id: &'a HeaderValue,
    pub trace: &'a Trace,
    pub via: Option<&'a Via>,
    /// `Forwarded` is wanted, too.
    pub forwarded: bool,
    /// The service's.
    pub changes: Option<&'a HeaderChanges>,
}

/// Makes a client's request head into what any endpoint may see; `names` are the head's own.
pub fn rewrite_request<B>(request: &mut Request<B>, names: RequestNames, introduction: &Introduction<'_>) {
    let received = request.version();
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
        remove_connection(headers, |name| Kind::of(name).is_removable());
    }
    if names.dropped > 0 {
        let told = introduction.origin.told.as_deref();
        let x_forwarded = told.is_some_and(|told| told.believes_x_forwarded);
        let certificates = told.is_some_and(|told| told.believes_client_cert);
        remove(headers, |name| match Kind::of(name) {
            Kind::Dropped | Kind::Te | Kind::TransferEncoding | Kind::Upgrade | Kind::Forwarded => true,
            Kind::Claim => !x_forwarded,
            // Some are of the other family, too.
            Kind::Certificate => !certificates || (!x_forwarded && name.as_str().starts_with("x-")),
            _ => false,
        });
    }
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if names.cookies > 1 {
        join_cookies(headers);
    }
    tell(headers, introduction);
    match introduction.trace {
        Trace::Untouched => {}
        Trace::Broken => {
            headers.remove(TRACEPARENT);
            headers.remove(TRACESTATE);
        }
        Trace::Started(parent) => {
            if names.traces > 0 {
                headers.remove(TRACESTATE);
            }
            headers.insert(TRACEPARENT, (**parent).clone());
        }
    }
    if let Some(via) = introduction.via {
        via.add(headers, received);
    }
    if let Some(changes) = introduction.changes {
        changes.apply(headers);
    }
}

/// Tells the endpoint who asks, and by what name the request is known.
fn tell(headers: &mut HeaderMap, introduction: &Introduction<'_>) {
    let Introduction { client, origin, .. } = introduction;
    let told = origin.told.as_deref();
    let host = told.and_then(|told| told.host.as_ref()).or_else(|| headers.get(HOST)).cloned();
    if introduction.forwarded {
        headers.insert(FORWARDED, forwarded(client, origin, host.as_ref()));
    }
    match host {
        Some(host) => headers.insert(X_FORWARDED_HOST, host),
        None => headers.remove(X_FORWARDED_HOST),
    };
    let (address, port) = told.map_or((&client.address, &client.port), |told| (&told.forwarded_for, &told.port));
    headers.insert(X_FORWARDED_FOR, address.clone());
    headers.insert(X_FORWARDED_PORT, port.clone());
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto(origin.secure)));
    headers.insert(X_REQUEST_ID, introduction.request_id.clone());
    if let Some(certificate) = &client.certificate {
        headers.insert(CLIENT_CERT, certificate.header.clone());
        // A chain that a trusted peer sent belongs to another certificate.
        headers.remove(CLIENT_CERT_CHAIN);
    }
}

fn proto(secure: bool) -> &'static str {
    if secure { "https" } else { "http" }
}

/// What a peer that speaks `Forwarded` said and about itself; otherwise about the client and, where that is another,
/// about the peer.
fn forwarded(client: &ForwardedClient, origin: &Origin, host: Option<&HeaderValue>) -> HeaderValue {
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    let about = Some((host, proto(origin.secure)));
    let said = origin.told.as_deref().and_then(|told| told.forwarded.as_deref());
    let mut text = said.unwrap_or_default().to_owned();
    if said.is_some() || origin.address == client.ip {
        write_forwarded(&mut text, client.ip, about);
    } else {
        write_forwarded(&mut text, origin.address, about);
        write_forwarded(&mut text, client.ip, None);
    }
    HeaderValue::try_from(text).expect("an authority, addresses and what was a header make one")
}

fn is_dropped_from_response(name: &str) -> bool {
    matches!(name, "keep-alive" | "proxy-authenticate" | "proxy-connection" | "transfer-encoding" | "upgrade")
}

/// What a response gets on its way.
#[derive(Debug, Default)]
pub struct ResponseAdditions<'a> {
    pub via: Option<&'a Via>,
    /// Clients learn it.
    pub request_id: Option<&'a HeaderValue>,
    /// The service's.
    pub changes: Option<&'a HeaderChanges>,
}

/// Makes an endpoint's response head, which came in `received`, into what any client may see; `date` is for
/// endpoints without a clock.
pub fn rewrite_response(
    headers: &mut HeaderMap,
    received: Version,
    additions: &ResponseAdditions<'_>,
    date: impl FnOnce() -> HeaderValue,
) {
    let (mut connection, mut dropped, mut dated) = (false, false, false);
    for name in headers.keys() {
        match name.as_str() {
            "date" => dated = true,
            "connection" => connection = true,
            name => dropped |= is_dropped_from_response(name),
        }
    }
    if connection {
        remove_connection(headers, |name| {
            !matches!(Kind::of(name), Kind::Kept | Kind::Te | Kind::TransferEncoding | Kind::Upgrade)
        });
        // It may name the date.
        dated = headers.contains_key(DATE);
    }
    if dropped {
        remove(headers, |name| is_dropped_from_response(name.as_str()));
    }
    if !dated {
        headers.insert(DATE, date());
    }
    if let Some(via) = additions.via {
        via.add(headers, received);
    }
    if let Some(id) = additions.request_id {
        headers.insert(X_REQUEST_ID, id.clone());
    }
    if let Some(changes) = additions.changes {
        changes.apply(headers);
    }
}

/// Removes `Connection` and, of the headers that it names, those that are the sender's to drop.
fn remove_connection(headers: &mut HeaderMap, removable: impl Fn(&HeaderName) -> bool) {
    let lines = headers.get_all(CONNECTION).iter().map(HeaderValue::as_bytes);
    let listed: Vec<HeaderName> = lines
        // Nearly every line is one of these two.
        .filter(|line| !line.eq_ignore_ascii_case(b"keep-alive") && !line.eq_ignore_ascii_case(b"close"))
        .flat_map(|line| line.split(|b| *b == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        .filter(|name| removable(name))
        .collect();
    headers.remove(CONNECTION);
    for name in listed {
        headers.remove(name);
    }
}

/// In one pass, since a client may send any number of names that go.
pub(super) fn remove(headers: &mut HeaderMap, dropped: impl Fn(&HeaderName) -> bool) {
    let gone: Vec<HeaderName> = headers.keys().filter(|name| dropped(name)).cloned().collect();
    for name in gone {
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
    match uri.path_and_query() {
        None => Uri::from_static("/"),
        // A query may stand alone behind an authority.
        Some(query) if query.as_str().starts_with('?') => {
            Uri::try_from(format!("/{}", query.as_str())).expect("a path and a query that was one make a URI")
        }
        Some(path) => Uri::from(path.clone()),
    }
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
    fn addresses_are_written_as_everybody_writes_them() {
        let v4 = (0..=255).map(|octet| IpAddr::from([octet, 255 - octet, 0, octet]));
        for ip in v4.chain(["2001:db8::1", "::", "::ffff:192.0.2.1"].map(|ip| ip.parse().unwrap())) {
            assert_eq!(written(ip), ip.to_string());
        }
    }

    #[test]
    fn a_certificate_that_was_shown_to_us_replaces_what_a_peer_says_and_its_chain() {
        let shown = ClientCertificate { header: HeaderValue::from_static(":b3Vycw==:"), fingerprint: String::new() };
        let client = ForwardedClient::new([10, 0, 0, 1].into(), true, 443, Some(shown));
        let origin = Origin::direct(&client);
        let introduction = Introduction {
            client: &client,
            origin: &origin,
            request_id: &HeaderValue::from_static("id"),
            trace: &Trace::Untouched,
            via: None,
            forwarded: false,
            changes: None,
        };
        let mut headers = map(&[("client-cert", ":dGhlaXJz:"), ("client-cert-chain", ":dGhlaXJz:")]);
        tell(&mut headers, &introduction);
        assert_eq!(headers.get_all("client-cert").iter().collect::<Vec<_>>(), [":b3Vycw==:"]);
        assert!(!headers.contains_key("client-cert-chain"));
    }

    #[test]
    fn names_listed_in_connection_go_with_it() {
        let mut headers = map(&[("connection", "close, X-One"), ("x-one", "1"), ("x-two", "2"), ("host", "a")]);
        headers.append(CONNECTION, HeaderValue::from_static("x-two, content-length"));
        headers.insert("content-length", HeaderValue::from_static("3"));
        rewrite_response(&mut headers, Version::HTTP_11, &ResponseAdditions::default(), || {
            HeaderValue::from_static("now")
        });
        assert_eq!(headers, map(&[("host", "a"), ("content-length", "3"), ("date", "now")]));
    }

    #[test]
    fn a_date_listed_in_connection_is_replaced() {
        let mut headers = map(&[("connection", "date"), ("date", "then")]);
        let additions = ResponseAdditions::default();
        rewrite_response(&mut headers, Version::HTTP_11, &additions, || HeaderValue::from_static("now"));
        assert_eq!(headers, map(&[("date", "now")]));
    }

    #[test]
    fn an_endpoints_own_date_is_kept() {
        let mut headers = map(&[("date", "then"), ("set-cookie", "a=1"), ("keep-alive", "timeout=5")]);
        headers.append("set-cookie", HeaderValue::from_static("b=2"));
        let additions = ResponseAdditions::default();
        rewrite_response(&mut headers, Version::HTTP_11, &additions, || unreachable!("there is a date"));
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
        assert_eq!(origin_form(&Uri::from_static("https://a.test?x=1")).to_string(), "/?x=1");
    }
}
