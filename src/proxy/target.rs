//! What a request asks for: its host and its path, and whether it says so in one way only.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use http::header::{HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Request, Version};

use super::names::RequestNames;
use super::reply::{Failure, Reason};

/// Refuses requests that name their target in two ways, in none, or by what can't be a name, and those whose body
/// others may read differently.
pub(super) fn check<B>(request: &Request<B>, names: RequestNames) -> Result<(), Failure> {
    // hyper lets anything pass that ends in `chunked`, and takes that off. What else was there would be lost, and
    // whoever reads such lists differently would find the body's end elsewhere.
    if names.transfer_encodings > 0 && (names.transfer_encodings > 1 || !is_chunked(request.headers())) {
        return Err(Reason::BadFraming.into());
    }
    let authority = request.uri().authority();
    // A host and port alone are CONNECT's target and nobody else's, `*` is that of OPTIONS (RFC 9112, 3.2).
    let bare_authority = authority.is_some() && request.uri().scheme().is_none();
    if (bare_authority && *request.method() != Method::CONNECT)
        || (request.uri().path() == "*" && *request.method() != Method::OPTIONS)
    {
        return Err(Reason::BadTarget.into());
    }
    let version = request.version();
    let needed = version >= Version::HTTP_11 && (version == Version::HTTP_11 || authority.is_none());
    if names.hosts > 1 || (needed && names.hosts == 0) {
        return Err(Reason::BadHost.into());
    }
    let host = if names.hosts == 0 { None } else { request.headers().get(HOST) };
    if host.is_some_and(|host| !is_authority_of_bytes(host.as_bytes()))
        || authority.is_some_and(|authority| !is_authority(authority.as_str()))
    {
        return Err(Reason::BadHost.into());
    }
    if version == Version::HTTP_2
        && let (Some(authority), Some(host)) = (authority, host)
        && *host != authority.as_str()
    {
        return Err(Reason::BadHost.into());
    }
    // Extended CONNECT (RFC 8441) is the only CONNECT a reverse proxy has a use for.
    if *request.method() == Method::CONNECT && request.extensions().get::<hyper::ext::Protocol>().is_none() {
        return Err(Reason::MethodNotAllowed.into());
    }
    Ok(())
}

fn is_chunked(headers: &HeaderMap) -> bool {
    headers.get(TRANSFER_ENCODING).is_some_and(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

/// Whether a text is a host and perhaps a port, without a user. Stricter than RFC 3986: percent signs and most
/// punctuation are in no name that exists, and what they mean to an endpoint is anybody's guess.
pub(super) fn is_authority(text: &str) -> bool {
    is_authority_of_bytes(text.as_bytes())
}

fn is_authority_of_bytes(text: &[u8]) -> bool {
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    let (host, rest) = match text {
        [b'[', after @ ..] => {
            let Some(end) = after.iter().position(|b| *b == b']') else { return false };
            let is_address = std::str::from_utf8(&after[..end]).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok());
            if !is_address {
                return false;
            }
            (&after[..end], &after[end + 1..])
        }
        _ => text.split_at(text.iter().position(|b| !is_name(b)).unwrap_or(text.len())),
    };
    let is_port = |port: &[u8]| port.len() <= 5 && port.iter().all(u8::is_ascii_digit);
    !host.is_empty() && (rest.is_empty() || rest.strip_prefix(b":").is_some_and(is_port))
}

/// The authority asked for, as received; empty when there is none. In a request with an absolute URI, the URI wins
/// over the `Host` header (RFC 9112, 3.2.2).
pub(super) fn authority<B>(request: &Request<B>) -> &str {
    match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => request.headers().get(HOST).and_then(|value| value.to_str().ok()).unwrap_or_default(),
    }
}

/// The host asked for, in lower case, without port and trailing dot; empty when there is none.
pub(super) fn host<B>(request: &Request<B>) -> Cow<'_, str> {
    canonical(authority(request))
}

fn canonical(authority: &str) -> Cow<'_, str> {
    let without_dot = |host: &'_ str| host.len() - usize::from(host.ends_with('.'));
    // Nearly every authority is a plain name in lower case, which one pass over its bytes shows.
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
    if authority.bytes().all(plain) {
        return Cow::Borrowed(&authority[..without_dot(authority)]);
    }
    let host = without_port(without_user(authority));
    let host = &host[..without_dot(host)];
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// An authority without the name and password before it, which nobody should send.
pub(super) fn without_user(authority: &str) -> &str {
    authority.bytes().rposition(|b| b == b'@').map_or(authority, |at| &authority[at + 1..])
}

fn without_port(host: &str) -> &str {
    port_colon(host).map_or(host, |colon| &host[..colon])
}

/// The text of an authority's port.
pub(super) fn port(authority: &str) -> Option<&str> {
    port_colon(authority).map(|colon| &authority[colon + 1..])
}

fn port_colon(authority: &str) -> Option<usize> {
    // The colons of an IPv6 address stand within brackets.
    let colon = authority.bytes().rposition(|b| matches!(b, b':' | b']'))?;
    (authority.as_bytes()[colon] == b':').then_some(colon)
}

/// The name of a protocol version, as logs have it.
pub(super) fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn a_host_is_compared_without_case_port_user_and_trailing_dot() {
        for (authority, host) in [
            ("Shop.Example.COM:8080", "shop.example.com"),
            ("shop.example.com.", "shop.example.com"),
            ("shop.example.com.:80", "shop.example.com"),
            ("u:p@shop.test", "shop.test"),
            ("[::1]:8080", "[::1]"),
            ("[::1]", "[::1]"),
            ("", ""),
        ] {
            assert_eq!(canonical(authority), host);
        }
    }

    fn request(version: Version, uri: &str, hosts: &[&str]) -> Request<()> {
        let mut request = Request::builder().version(version).uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        request.body(()).unwrap()
    }

    fn checked(request: &Request<()>) -> Result<(), Failure> {
        let names = RequestNames::of(request.headers());
        check(request, names)
    }

    #[test]
    fn a_target_named_in_two_ways_or_none_is_refused() {
        assert!(checked(&request(Version::HTTP_11, "/", &["a"])).is_ok());
        assert!(checked(&request(Version::HTTP_10, "/", &[])).is_ok());
        assert!(checked(&request(Version::HTTP_11, "/", &[])).is_err());
        assert!(checked(&request(Version::HTTP_11, "/", &["a", "a"])).is_err());
        assert!(checked(&request(Version::HTTP_2, "https://a/", &[])).is_ok());
        assert!(checked(&request(Version::HTTP_2, "https://a/", &["a"])).is_ok());
        assert!(checked(&request(Version::HTTP_2, "https://a/", &["b"])).is_err());
        assert!(checked(&request(Version::HTTP_2, "/", &[])).is_err());
    }

    #[test]
    fn a_transfer_encoding_is_chunked_alone() {
        for (values, good) in [
            (&["chunked"][..], true),
            (&["Chunked"], true),
            (&["gzip, chunked"], false),
            (&["chunked, chunked"], false),
            (&["chunked", "chunked"], false),
            (&["identity", "chunked"], false),
        ] {
            let mut request = request(Version::HTTP_11, "/", &["a"]);
            for value in values {
                request.headers_mut().append(TRANSFER_ENCODING, http::HeaderValue::from_static(value));
            }
            assert_eq!(checked(&request).is_ok(), good, "{values:?}");
        }
    }

    #[test]
    fn a_target_is_one_that_its_method_may_have() {
        assert!(checked(&request(Version::HTTP_11, "*", &["a"])).is_err());
        assert!(checked(&request(Version::HTTP_11, "shop.test:80", &["a"])).is_err());
        assert!(checked(&request(Version::HTTP_11, "shop", &["a"])).is_err());
        assert!(checked(&request(Version::HTTP_11, "http://shop.test:80", &["a"])).is_ok());
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for good in ["a", "Shop.Test", "shop.test.:80", "a_b~c-1", "192.0.2.1:1", "[::1]", "[2001:db8::1]:65535", "a:"]
        {
            assert!(is_authority(good), "{good}");
        }
        for bad in [
            "",
            ":80",
            "u@a",
            "u:p@a",
            "a b",
            "a/b",
            "a?b",
            "a#b",
            "a,b",
            "a:b",
            "a:1:2",
            "a:123456",
            "a%20b",
            "[::1",
            "[]",
            "[a]",
            "[::1]x",
            "::1",
            "[fe80::1%25lo]",
            "caf\u{e9}",
            "a\\b",
            "a\"",
            "a;b",
            "a[::1]",
            "*",
        ] {
            assert!(!is_authority(bad), "{bad}");
            assert!(checked(&request(Version::HTTP_11, "/", &[bad])).is_err(), "{bad}");
        }
        assert!(checked(&request(Version::HTTP_2, "https://u:p@a/", &[])).is_err());
        assert!(checked(&request(Version::HTTP_11, "http://u@a/", &["a"])).is_err());
    }

    #[test]
    fn an_absolute_uri_wins_over_the_host_header() {
        assert_eq!(host(&request(Version::HTTP_11, "http://a.test/x", &["b.test"])), "a.test");
        assert_eq!(host(&request(Version::HTTP_11, "/x", &["B.test:80"])), "b.test");
    }
}
