//! What a request asks for: its host and its path, and whether it says so in one way only.

use std::borrow::Cow;

use http::header::HOST;
use http::{Method, Request, Version};

use super::headers::RequestNames;
use super::reply::{Failure, Reason};

/// Refuses paths longer than `limit`.
pub(super) fn check_length<B>(request: &Request<B>, limit: usize) -> Result<(), Failure> {
    let length = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    if length > limit { Err(Reason::UriTooLong.into()) } else { Ok(()) }
}

/// Refuses requests that name their target in two ways or in none.
pub(super) fn check<B>(request: &Request<B>, names: RequestNames) -> Result<(), Failure> {
    let authority = request.uri().authority();
    let version = request.version();
    let needed = version >= Version::HTTP_11 && (version == Version::HTTP_11 || authority.is_none());
    if names.hosts > 1 || (needed && names.hosts == 0) {
        return Err(Reason::BadHost.into());
    }
    let host = if names.hosts == 0 { None } else { request.headers().get(HOST) };
    if host.is_some_and(|host| host.to_str().is_err()) {
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

/// The host asked for, in lower case, without port and trailing dot; empty when there is none. In a request with
/// an absolute URI, the URI wins over the `Host` header (RFC 9112, 3.2.2).
pub(super) fn host<B>(request: &Request<B>) -> Cow<'_, str> {
    let named = match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => request.headers().get(HOST).and_then(|value| value.to_str().ok()).unwrap_or_default(),
    };
    canonical(named)
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
    match host.bytes().rposition(|b| matches!(b, b':' | b']')) {
        // The colons of an IPv6 address stand within brackets.
        Some(colon) if host.as_bytes()[colon] == b':' => &host[..colon],
        _ => host,
    }
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
    fn an_absolute_uri_wins_over_the_host_header() {
        assert_eq!(host(&request(Version::HTTP_11, "http://a.test/x", &["b.test"])), "a.test");
        assert_eq!(host(&request(Version::HTTP_11, "/x", &["B.test:80"])), "b.test");
    }
}
