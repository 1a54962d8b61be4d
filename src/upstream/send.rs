//! What becomes of a request that was handed to a connection, of either protocol: an answer, or why there is none.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};

use super::http1::{Http1Connection, Http1Error};
use super::http2::Http2Body;
use super::{BodyError, RequestBody, UpgradedStream};
use crate::passage::Inlet;

/// An endpoint's body on its way.
#[derive(Debug)]
pub enum AnswerBody {
    Http1(Http1Body),
    Http2(Http2Body),
}

/// Read from a connection that its lease holds, too.
#[derive(Debug)]
pub struct Http1Body(Rc<Http1Connection>);

impl AnswerBody {
    /// The bytes that follow an endpoint's agreement to extended CONNECT.
    #[must_use]
    pub fn into_tunnel(self) -> Option<UpgradedStream> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(body) => body.into_tunnel(),
        }
    }

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
            Self::Http2(body) => Pin::new(body).poll_frame(cx),
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
    /// `timed_out`: the connection was closed because its endpoint gave no sign of life.
    pub(super) fn http2(error: h2::Error, timed_out: bool, unsent: Option<Request<RequestBody>>) -> Self {
        let why = if timed_out { Why::Other } else { why(&error) };
        Self { unsent, why, error: error.into() }
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

fn why(error: &h2::Error) -> Why {
    // Streams above a GOAWAY's last id are the ones that fail with it.
    if error.reason() == Some(h2::Reason::REFUSED_STREAM) || (error.is_go_away() && error.is_remote()) {
        Why::NotLookedAt
    } else if error.is_io() || (error.is_go_away() && !error.is_library()) {
        Why::Closed
    } else {
        // The endpoint ended this one stream, or it was broken off for what had come.
        Why::Other
    }
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
