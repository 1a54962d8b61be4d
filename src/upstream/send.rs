//! What becomes of a request that was handed to a connection, of either protocol: an answer, or why there is none.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use super::http1::{Http1Connection, Http1Error};
use super::{BodyError, RequestBody};
use crate::passage::Inlet;

/// An endpoint's body on its way.
#[derive(Debug)]
pub enum AnswerBody {
    Http1(Http1Body),
    Http2(Incoming),
}

/// Read from a connection that its lease holds, too.
#[derive(Debug)]
pub struct Http1Body(Rc<Http1Connection>);

impl AnswerBody {
    /// Whether the kernel may carry what is left of it past us.
    pub(crate) fn is_passable(&self) -> bool {
        match self {
            Self::Http1(body) => body.0.is_passable(),
            Self::Http2(_) => false,
        }
    }

    /// Has what is left of it carried through `inlet`; its frames stand in for it.
    pub(crate) fn pass_through(&self, inlet: Inlet) {
        if let Self::Http1(body) = self {
            body.0.pass_through(inlet);
        }
    }

    /// Whether the client has yet to take what came before.
    pub(crate) fn waits_for_client(&self) -> bool {
        matches!(self, Self::Http1(body) if body.0.waits_for_client())
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Http1(body) => body.0.poll_frame(cx),
            Self::Http2(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(BodyError::Http)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.0.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.0.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}

/// What a missing answer says about its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The endpoint promises that it did nothing.
    NotLookedAt,
    /// The connection ended before a byte of an answer.
    Closed,
    Other,
}

/// Why there is no answer.
#[derive(Debug)]
pub struct SendError {
    /// The request, where nothing of it was sent.
    unsent: Option<Request<RequestBody>>,
    why: Why,
    error: Box<dyn Error + Send + Sync>,
}

impl SendError {
    pub(super) fn http2(mut error: TrySendError<Request<RequestBody>>) -> Self {
        let unsent = error.take_message();
        let error = error.into_error();
        Self { unsent, why: why(&error), error: error.into() }
    }

    fn http1(error: &Http1Error) -> Self {
        let why = if matches!(error, Http1Error::Closed(_)) { Why::Closed } else { Why::Other };
        Self { unsent: None, why, error: error.to_string().into() }
    }

    pub fn take_unsent(&mut self) -> Option<Request<RequestBody>> {
        self.unsent.take()
    }

    #[must_use]
    pub fn why(&self) -> Why {
        self.why
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for SendError {}

fn why(error: &hyper::Error) -> Why {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            // Streams above a GOAWAY's last id are the ones that fail with it.
            let refused = h2.reason() == Some(h2::Reason::REFUSED_STREAM) || (h2.is_go_away() && h2.is_remote());
            return if refused {
                Why::NotLookedAt
            } else if h2.is_reset() || h2.is_library() {
                // The endpoint ended this one stream, or we broke off for what had come.
                Why::Other
            } else {
                Why::Closed
            };
        }
        source = cause.source();
    }
    if error.is_parse() || error.is_timeout() || error.is_user() { Why::Other } else { Why::Closed }
}

/// Waits for an answer's head over HTTP/1.
#[derive(Debug)]
pub(super) struct Http1Sending(pub(super) Rc<Http1Connection>);

impl Future for Http1Sending {
    type Output = Result<Response<AnswerBody>, Box<SendError>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let connection = &self.0;
        Poll::Ready(match ready!(connection.poll_head(cx)) {
            Ok(response) => Ok(response.map(|()| AnswerBody::Http1(Http1Body(Rc::clone(connection))))),
            Err(error) => Err(Box::new(SendError::http1(&error))),
        })
    }
}
