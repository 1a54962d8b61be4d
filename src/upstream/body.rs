//! A request's body on its way upstream.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

/// How far a request's body has come; shared with whoever must know whether all of it was read.
#[derive(Debug, Default)]
pub struct RequestProgress {
    bytes: Cell<u64>,
    ended_at: Cell<Option<Instant>>,
    failed: Cell<bool>,
}

impl RequestProgress {
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// All of the body was read from the client.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended_at.get().is_some()
    }

    /// When the last of the body was read.
    #[must_use]
    pub fn ended_at(&self) -> Option<Instant> {
        self.ended_at.get()
    }

    /// The client broke off in the middle of its body.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.failed.get()
    }
}

/// The client's body, streamed; most requests have none and cost nothing here.
#[derive(Debug)]
pub enum RequestBody {
    Empty,
    Stream { incoming: Incoming, progress: Rc<RequestProgress> },
}

impl RequestBody {
    /// Wraps what the client sends.
    #[must_use]
    pub fn new(incoming: Incoming) -> Self {
        if incoming.is_end_stream() { Self::Empty } else { Self::Stream { incoming, progress: Rc::default() } }
    }

    /// `None` for an empty body.
    #[must_use]
    pub fn progress(&self) -> Option<Rc<RequestProgress>> {
        match self {
            Self::Empty => None,
            Self::Stream { progress, .. } => Some(Rc::clone(progress)),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self::Stream { incoming, progress } = self.get_mut() else { return Poll::Ready(None) };
        let polled = std::task::ready!(Pin::new(&mut *incoming).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    progress.bytes.set(progress.bytes.get() + data.len() as u64);
                }
                if frame.is_trailers() || incoming.is_end_stream() {
                    progress.ended_at.set(Some(Instant::now()));
                }
            }
            Some(Err(_)) => progress.failed.set(true),
            None => {
                if !progress.ended() {
                    progress.ended_at.set(Some(Instant::now()));
                }
            }
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream { incoming, .. } => incoming.size_hint(),
        }
    }
}
