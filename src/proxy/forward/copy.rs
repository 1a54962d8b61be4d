//! What is kept of a request for sending it again.

use http::{HeaderMap, Method, Request, Uri};
use hyper::ext::Protocol;

use crate::upstream::{KeptBody, RequestBody};

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
