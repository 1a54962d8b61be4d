//! The form that a request has on a connection.

use http::header::{CONNECTION, HOST};
use http::uri::{Authority, PathAndQuery, Scheme as UriScheme};
use http::{Request, Uri, Version};

use super::{Lease, RequestBody};
use crate::config::Scheme;

/// Puts the request into the form of the connection's protocol. HTTP/1 is written from what requests are here.
pub fn adapt(request: &mut Request<RequestBody>, lease: &Lease) {
    if !lease.is_http2() {
        return;
    }
    let identity = &lease.endpoint().endpoint.identity;
    *request.version_mut() = Version::HTTP_2;
    let scheme = match identity.scheme {
        Scheme::Http => UriScheme::HTTP,
        Scheme::Https => UriScheme::HTTPS,
    };
    let host = request.headers_mut().remove(HOST);
    request.headers_mut().remove(CONNECTION);
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let authority = authority.or_else(|| request.uri().authority().cloned());
    let authority = authority.unwrap_or_else(|| {
        Authority::try_from(identity.authority.as_bytes()).expect("a host and a port are an authority")
    });
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme);
    parts.authority = Some(authority);
    parts.path_and_query =
        Some(request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
    *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path make a URI");
}
