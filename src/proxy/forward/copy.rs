//! What is kept of a request for sending it again.

use h2::ext::Protocol;
use http::Request;

use crate::upstream::{KeptBody, RequestBody};

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
