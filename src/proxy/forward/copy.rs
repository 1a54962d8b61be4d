//! What is kept of a request for sending it again, and the form it has on a connection.

use http::header::{CONNECTION, HOST};
use http::uri::{Authority, PathAndQuery, Scheme as UriScheme};
use http::{Request, Uri, Version};
use hyper::ext::Protocol;

use crate::config::Scheme;
use crate::upstream::{KeptBody, Lease, RequestBody};

/// A request that can be sent again.
pub(super) struct RequestCopy<'a> {
    /// Without its body.
    head: &'a Request<RequestBody>,
    body: Kept,
}

/// What is kept of a body; `None`: there is none.
pub(super) struct Kept(Option<KeptBody>);

impl Kept {
    /// `None` when more than `max` is to come.
    pub(super) fn of(body: &mut RequestBody, max: usize) -> Option<Self> {
        if body.is_empty() { Some(Self(None)) } else { body.keep(max).map(|kept| Self(Some(kept))) }
    }
}

impl<'a> RequestCopy<'a> {
    pub(super) fn new(head: &'a Request<RequestBody>, body: Kept) -> Self {
        Self { head, body }
    }

    /// `None` when its body turned out to be too large, or has been given up.
    pub(super) fn request(&self) -> Option<Request<RequestBody>> {
        let body = match &self.body.0 {
            None => RequestBody::Empty,
            Some(kept) => kept.again()?,
        };
        let mut request = copied(self.head);
        *request.body_mut() = body;
        Some(request)
    }

    /// It can be sent again, as far as is known.
    pub(super) fn is_whole(&self) -> bool {
        self.body.0.as_ref().is_none_or(KeptBody::is_whole)
    }

    /// Asking for it changes nothing.
    pub(super) fn is_safe(&self) -> bool {
        self.head.method().is_safe()
    }

    /// It won't be sent again.
    pub(super) fn give_up(&self) {
        if let Some(body) = &self.body.0 {
            body.give_up();
        }
    }
}

/// The head of `request`, as far as it is sent anywhere.
pub(super) fn copied(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    if let Some(protocol) = request.extensions().get::<Protocol>().cloned() {
        copy.extensions_mut().insert(protocol);
    }
    copy
}

/// Puts the request into the form of the connection's protocol. HTTP/1 is written from what requests are here.
pub(super) fn adapt(request: &mut Request<RequestBody>, lease: &Lease) {
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
