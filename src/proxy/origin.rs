//! Who a request comes from: the peer, or whom a peer that is trusted speaks for.

use std::borrow::Cow;
use std::net::IpAddr;

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use ipnet::IpNet;

use super::headers::{ForwardedClient, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PORT, X_FORWARDED_PROTO};
use super::names::RequestNames;
use super::target;
use crate::config::{Dialect, Trust};
use crate::model::{ForwardedElement, lies_in, parse_node};

/// Proxies that a request may have come through. What stands before is not looked at.
const HOPS_MAX: usize = 32;

/// Who a request comes from, as far as it is believed.
#[derive(Debug)]
pub struct Origin {
    /// The client's, which rules, limits and the access log go by.
    pub address: IpAddr,
    /// The client speaks TLS, to us or to a trusted peer.
    pub secure: bool,
    /// What a trusted peer says; `None`: the endpoint is told about the connection.
    pub(super) told: Option<Box<Told>>,
}

/// What a trusted peer's words become on their way to the endpoint.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) forwarded_for: HeaderValue,
    /// `None`: the request's own host.
    pub(super) host: Option<HeaderValue>,
    pub(super) port: HeaderValue,
    /// Whole lines of `Forwarded`, if that is what the peer is believed in.
    pub(super) forwarded: Option<String>,
    /// The peer is believed in whatever begins with `X-Forwarded-`.
    pub(super) believes_x_forwarded: bool,
    /// The peer is believed about its client's certificate.
    pub(super) believes_client_cert: bool,
}

impl Origin {
    /// The peer itself.
    #[must_use]
    pub fn direct(client: &ForwardedClient) -> Self {
        Self { address: client.ip, secure: client.secure, told: None }
    }

    /// Whom `request` comes from, if its peer is one that is trusted.
    #[must_use]
    pub fn of<B>(client: &ForwardedClient, trust: &Trust, request: &Request<B>, names: RequestNames) -> Self {
        let trusted = &trust.proxies[..];
        if trusted.is_empty() || names.claims == 0 || !lies_in(client.ip, trusted) {
            return Self::direct(client);
        }
        let headers = request.headers();
        let speaks_forwarded = match trust.dialect {
            Dialect::XForwarded => false,
            Dialect::Forwarded => true,
            // `X-Forwarded-For` is what nearly all proxies speak; the others of its kind alone may be a stranger's.
            Dialect::Both => headers.contains_key(FORWARDED) && !headers.contains_key(X_FORWARDED_FOR),
        };
        let claim = if speaks_forwarded {
            Claim::of_forwarded(client.ip, trusted, headers)
        } else {
            Claim::of_x_forwarded(client.ip, trusted, headers)
        };
        Self {
            address: claim.address,
            secure: claim.secure.unwrap_or(client.secure),
            told: Some(Box::new(claim.told(client, trust, request))),
        }
    }
}

/// What a trusted peer says, as far as it is well formed.
struct Claim<'a> {
    address: IpAddr,
    secure: Option<bool>,
    host: Option<Cow<'a, str>>,
    port: Option<HeaderValue>,
    /// Whom the endpoint is told of before the peer.
    before: Vec<u8>,
    forwarded: Option<String>,
}

impl<'a> Claim<'a> {
    fn of_x_forwarded(peer: IpAddr, trusted: &[IpNet], headers: &'a HeaderMap) -> Self {
        let lines = || headers.get_all(X_FORWARDED_FOR).iter();
        let mut address = peer;
        let entries = lines().rev().flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        for entry in entries.take(HOPS_MAX) {
            let node = std::str::from_utf8(entry.trim_ascii()).ok().and_then(parse_node);
            let Some(node) = node else { break };
            address = node;
            if !lies_in(node, trusted) {
                break;
            }
        }
        Self {
            address,
            secure: only(headers, &X_FORWARDED_PROTO).and_then(secure),
            host: only(headers, &X_FORWARDED_HOST).filter(|host| target::is_authority(host)).map(Cow::Borrowed),
            port: only(headers, &X_FORWARDED_PORT).filter(|port| is_port(port)).map(value),
            before: lines().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b", "[..]),
            forwarded: None,
        }
    }

    /// Each element was added by whoever the next one names, so what is farthest to the left and still by somebody
    /// trusted is about the client itself.
    fn of_forwarded(peer: IpAddr, trusted: &[IpNet], headers: &'a HeaderMap) -> Self {
        // What can't be read stops the walk.
        let lines: Vec<&str> = headers.get_all(FORWARDED).iter().map(|line| line.to_str().unwrap_or("?")).collect();
        let mut claim =
            Self { address: peer, secure: None, host: None, port: None, before: Vec::new(), forwarded: None };
        let mut nodes = Vec::new();
        for element in lines.iter().rev().flat_map(|line| elements(line)).take(HOPS_MAX) {
            claim.secure = element.proto.as_deref().and_then(secure).or(claim.secure);
            claim.host = element.host.filter(|host| target::is_authority(host)).or(claim.host);
            let Some(node) = element.node.as_deref().and_then(parse_node) else { break };
            claim.address = node;
            nodes.push(node.to_string());
            if !lies_in(node, trusted) {
                break;
            }
        }
        nodes.reverse();
        claim.before = nodes.join(", ").into_bytes();
        claim.forwarded = Some(lines.join(", ")).filter(|said| !said.is_empty());
        claim
    }

    fn told<B>(self, client: &ForwardedClient, trust: &Trust, request: &Request<B>) -> Told {
        let mut forwarded_for = self.before;
        if !forwarded_for.is_empty() {
            forwarded_for.extend_from_slice(b", ");
        }
        forwarded_for.extend_from_slice(client.address.as_bytes());
        let port = self.port.or_else(|| {
            // The listener's port says nothing about what the client connected to.
            let secure = self.secure?;
            let host = self.host.as_deref().unwrap_or_else(|| target::authority(request));
            let default = if secure { "443" } else { "80" };
            Some(value(target::port(host).filter(|port| is_port(port)).unwrap_or(default)))
        });
        Told {
            forwarded_for: HeaderValue::try_from(forwarded_for).unwrap_or_else(|_| client.address.clone()),
            host: self.host.and_then(|host| HeaderValue::from_str(&host).ok()),
            port: port.unwrap_or_else(|| client.port.clone()),
            forwarded: self.forwarded,
            believes_x_forwarded: trust.dialect != Dialect::Forwarded,
            believes_client_cert: trust.client_cert,
        }
    }
}

/// The elements of a line, from the right, until one is broken.
fn elements(line: &str) -> impl Iterator<Item = ForwardedElement<'_>> {
    let mut rest = line;
    // An element that is broken stops the walk like one that names nobody.
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (before, element) = ForwardedElement::last_of(rest).unwrap_or_default();
        rest = before;
        Some(element)
    })
}

/// The value of a header that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut lines = headers.get_all(name).iter();
    let line = lines.next()?.to_str().ok()?;
    lines.next().is_none().then_some(line.trim())
}

fn secure(proto: &str) -> Option<bool> {
    if proto.eq_ignore_ascii_case("https") { Some(true) } else { proto.eq_ignore_ascii_case("http").then_some(false) }
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("digits make a value")
}

#[cfg(test)]
mod tests {
    use http::header::HOST;

    use super::*;

    fn of(peer: &str, fields: &[(&str, &str)]) -> Origin {
        spoken(Dialect::XForwarded, peer, fields)
    }

    fn spoken(dialect: Dialect, peer: &str, fields: &[(&str, &str)]) -> Origin {
        let mut request = Request::builder().header(HOST, "shop.test");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let proxies = ["10.0.0.0/8", "2001:db8::/32"].map(|text| text.parse().unwrap()).to_vec();
        let client = ForwardedClient::new(peer.parse().unwrap(), false, 8080, None);
        let trust = Trust { proxies, dialect, client_cert: false };
        Origin::of(&client, &trust, &request, RequestNames::of(request.headers()))
    }

    fn address(fields: &[(&str, &str)]) -> String {
        of("10.0.0.1", fields).address.to_string()
    }

    #[test]
    fn a_stranger_is_who_it_is() {
        let stranger = of("192.0.2.1", &[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-proto", "https")]);
        assert_eq!((stranger.address.to_string().as_str(), stranger.secure), ("192.0.2.1", false));
        assert!(stranger.told.is_none());
    }

    #[test]
    fn the_client_is_the_last_address_that_is_not_trusted() {
        for (lines, client) in [
            (&["198.51.100.7"][..], "198.51.100.7"),
            (&["6.6.6.6, 198.51.100.7"], "198.51.100.7"),
            (&["6.6.6.6, 198.51.100.7, 10.0.0.2,2001:db8::7"], "198.51.100.7"),
            (&["198.51.100.7:4711, [2001:db8::7]:1"], "198.51.100.7"),
            (&["6.6.6.6", "198.51.100.7", "10.0.0.2"], "198.51.100.7"),
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            (&["198.51.100.7, nonsense, 10.0.0.2"], "10.0.0.2"),
            (&["198.51.100.7, unknown"], "10.0.0.1"),
            (&["198.51.100.7,"], "10.0.0.1"),
            (&[""], "10.0.0.1"),
            (&["\u{e9}, 198.51.100.7"], "198.51.100.7"),
        ] {
            let fields: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
            assert_eq!(address(&fields), client, "{lines:?}");
        }
        let many = vec!["10.0.0.2"; HOPS_MAX].join(", ");
        assert_eq!(address(&[("x-forwarded-for", &format!("6.6.6.6, {many}"))]), "10.0.0.2", "the walk has an end");
    }

    #[test]
    fn what_is_not_well_formed_or_not_said_once_is_not_believed() {
        let told = |fields: &[(&str, &str)]| {
            let origin = of("10.0.0.1", fields);
            let told = origin.told.unwrap();
            let text = |value: HeaderValue| value.to_str().unwrap().to_owned();
            (origin.secure, told.host.map(text).unwrap_or_default(), text(told.port))
        };
        let wanted = |secure, host: &str, port: &str| (secure, host.to_owned(), port.to_owned());
        let (proto, host, port) = ("x-forwarded-proto", "x-forwarded-host", "x-forwarded-port");
        assert_eq!(told(&[(proto, "HTTPS"), (host, "a.test"), (port, "444")]), wanted(true, "a.test", "444"));
        assert_eq!(told(&[(proto, "https"), (proto, "https")]), wanted(false, "", "8080"));
        assert_eq!(told(&[(proto, "https,http")]), wanted(false, "", "8080"));
        assert_eq!(told(&[(host, "a@b"), (port, "65536")]), wanted(false, "", "8080"));
        assert_eq!(told(&[(host, "a b"), (port, "+1")]), wanted(false, "", "8080"));
        assert_eq!(told(&[(proto, "https")]), wanted(true, "", "443"), "not the listener's");
        assert_eq!(told(&[(proto, "http"), (host, "a.test:81")]), wanted(false, "a.test:81", "81"));
    }

    #[test]
    fn forwarded_tells_of_the_client_to_the_left_of_those_who_are_trusted() {
        let line = "for=6.6.6.6;proto=http, for=\"[2001:db9::1]:4711\";proto=https;host=\"a.test:81\", for=10.0.0.2";
        let origin = spoken(Dialect::Forwarded, "10.0.0.1", &[("forwarded", line)]);
        let told = origin.told.unwrap();
        assert_eq!((origin.address.to_string().as_str(), origin.secure), ("2001:db9::1", true));
        assert_eq!(told.forwarded_for, "2001:db9::1, 10.0.0.2, 10.0.0.1");
        assert_eq!((told.host.unwrap(), told.port), (HeaderValue::from_static("a.test:81"), value("81")));

        let address = |lines: &[&str]| {
            let fields: Vec<_> = lines.iter().map(|line| ("forwarded", *line)).collect();
            spoken(Dialect::Forwarded, "10.0.0.1", &fields).address.to_string()
        };
        assert_eq!(address(&["for=6.6.6.6, for=_x"]), "10.0.0.1");
        assert_eq!(address(&["for=6.6.6.6, for=unknown, for=10.0.0.2"]), "10.0.0.2");
        assert_eq!(address(&["for=6.6.6.6, nonsense, for=10.0.0.2"]), "10.0.0.2");
        assert_eq!(address(&["for=6.6.6.6", "proto=http"]), "10.0.0.1");
    }

    #[test]
    fn only_the_words_that_are_believed_say_who_the_client_is() {
        let forwarded = ("forwarded", "for=6.6.6.6;proto=https");
        let (x_for, x_proto) = (("x-forwarded-for", "198.51.100.7"), ("x-forwarded-proto", "https"));
        for (fields, x_forwarded, rfc_7239, both) in [
            (&[forwarded][..], ("10.0.0.1", false), ("6.6.6.6", true), ("6.6.6.6", true)),
            (&[x_for, x_proto], ("198.51.100.7", true), ("10.0.0.1", false), ("198.51.100.7", true)),
            (&[forwarded, x_for], ("198.51.100.7", false), ("6.6.6.6", true), ("198.51.100.7", false)),
            (&[("forwarded", "for=6.6.6.6"), x_proto], ("10.0.0.1", true), ("6.6.6.6", false), ("6.6.6.6", false)),
        ] {
            for (dialect, wanted) in
                [(Dialect::XForwarded, x_forwarded), (Dialect::Forwarded, rfc_7239), (Dialect::Both, both)]
            {
                let origin = spoken(dialect, "10.0.0.1", fields);
                let found = (origin.address.to_string(), origin.secure);
                assert_eq!((found.0.as_str(), found.1), wanted, "{dialect:?} {fields:?}");
            }
        }
    }
}
