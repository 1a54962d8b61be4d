//! The form that a request has on a connection.

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme as UriScheme};
use http::{HeaderValue, Request, Uri, Version};

use super::{Lease, RequestBody};
use crate::config::Scheme;

/// Puts the request into the form of the connection's protocol. Can be done again for another connection.
pub fn adapt(request: &mut Request<RequestBody>, lease: &Lease) {
    let identity = &lease.endpoint().endpoint.identity;
    if !lease.is_http2() {
        // Only HTTP/1.0 may do without a `Host`, and what we send on is HTTP/1.1.
        if request.version() == Version::HTTP_10 && !request.headers().contains_key(HOST) {
            request.headers_mut().insert(HOST, identity.authority.clone());
        }
        // hyper takes a GET or HEAD of unknown length for one without a body, unless told.
        if !request.body().is_empty() && !request.headers().contains_key(CONTENT_LENGTH) {
            request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        *request.version_mut() = Version::HTTP_11;
        return;
    }
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
