//! What is kept of a request for sending it again, and the form it has on a connection.

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme as UriScheme};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use hyper::ext::Protocol;

use crate::config::Scheme;
use crate::upstream::{KeptBody, Lease, RequestBody};

/// A copy of a request, for sending it again: hyper keeps none. Made for nearly every request and hardly ever used, so
/// it is no more than it has to be.
pub(super) struct RequestCopy {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    protocol: Option<Protocol>,
    /// `None`: there was none.
    body: Option<KeptBody>,
}

impl RequestCopy {
    /// `None` when more than `body_max` of a body is to come.
    pub(super) fn of(request: &mut Request<RequestBody>, body_max: usize) -> Option<Self> {
        let body = if request.body().is_empty() { None } else { Some(request.body_mut().keep(body_max)?) };
        Some(Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
            protocol: request.extensions().get().cloned(),
            body,
        })
    }

    /// `None` when its body turned out to be too large, or has been given up.
    pub(super) fn request(&self) -> Option<Request<RequestBody>> {
        let body = match &self.body {
            None => RequestBody::Empty,
            Some(kept) => kept.again()?,
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        if let Some(protocol) = self.protocol.clone() {
            request.extensions_mut().insert(protocol);
        }
        Some(request)
    }

    /// It can be sent again, as far as is known.
    pub(super) fn is_whole(&self) -> bool {
        self.body.as_ref().is_none_or(KeptBody::is_whole)
    }

    /// Asking for it changes nothing.
    pub(super) fn is_safe(&self) -> bool {
        self.method.is_safe()
    }

    /// It won't be sent again.
    pub(super) fn give_up(&self) {
        if let Some(body) = &self.body {
            body.give_up();
        }
    }
}

/// Puts the request into the form of the connection's protocol. Can be done again for another connection.
pub(super) fn adapt(request: &mut Request<RequestBody>, lease: &Lease) {
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
