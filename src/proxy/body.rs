//! A response's body on its way to the client; with it travel the endpoint's connection, which goes back to its
//! pool at the end, and the exchange, which is recorded then.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::{fmt, io};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::compress::Compressed;
use super::exchange::Exchange;
use super::reply::Reason;
use crate::upstream::Lease;

/// See the module's text.
#[derive(Debug)]
pub struct ResponseBody {
    source: Source,
    /// Absent from the empty body that begins a tunnel, which keeps the exchange.
    exchange: Option<Exchange>,
}

/// Where a response's bytes come from.
#[derive(Debug)]
pub(crate) enum Source {
    Whole(Bytes),
    Endpoint {
        incoming: Incoming,
        lease: Lease,
    },
    /// Boxed: large, and rare.
    Compressed(Box<Compressed>),
    /// Ended; or there was nothing.
    Ended,
}

/// Why a body ends before its end.
#[derive(Debug)]
pub enum BodyError {
    /// The endpoint broke off.
    Http(hyper::Error),
    /// Compression failed, which takes a lack of memory.
    Encoder(io::Error),
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(error) => error.fmt(f),
            Self::Encoder(error) => write!(f, "compression failed: {error}"),
        }
    }
}

impl std::error::Error for BodyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Http(error) => Some(error),
            Self::Encoder(error) => Some(error),
        }
    }
}

impl From<hyper::Error> for BodyError {
    fn from(error: hyper::Error) -> Self {
        Self::Http(error)
    }
}

impl ResponseBody {
    pub(crate) fn new(source: Source, exchange: Option<Exchange>) -> Self {
        Self { source, exchange }
    }

    fn sent(&mut self, bytes: usize) {
        if let Some(exchange) = &mut self.exchange {
            exchange.sent(bytes);
        }
    }

    fn failed(&mut self, reason: Reason) {
        if let Some(exchange) = &mut self.exchange {
            exchange.failed(reason);
        }
    }

    /// Dropped before its end: the client left, or we close its connection.
    fn broken_off(&mut self) {
        if let Some(exchange) = &mut self.exchange {
            let closed = exchange.client().lifeline.is_closed();
            exchange.failed(if closed { Reason::Shutdown } else { Reason::ClientLeft });
        }
    }

    /// The endpoint's answer has been passed on whole. Its connection can carry another request if it has taken
    /// all of this one: an endpoint that answers early may still be reading.
    fn endpoint_ended(&mut self) {
        let mut lease = match std::mem::replace(&mut self.source, Source::Ended) {
            Source::Endpoint { lease, .. } => lease,
            Source::Compressed(compressed) => compressed.lease,
            Source::Whole(_) | Source::Ended => return,
        };
        if self.exchange.as_ref().is_some_and(Exchange::request_read) {
            lease.give_back();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = match &mut this.source {
            Source::Endpoint { incoming, .. } => {
                ready!(Pin::new(incoming).poll_frame(cx)).map(|frame| frame.map_err(BodyError::Http))
            }
            Source::Compressed(compressed) => ready!(compressed.poll_frame(cx)),
            Source::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                this.source = Source::Ended;
                this.sent(bytes.len());
                return Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))));
            }
            Source::Ended => return Poll::Ready(None),
        };
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    this.sent(data.len());
                }
            }
            Some(Err(_)) => {
                this.failed(Reason::ResponseBroken);
                this.source = Source::Ended;
            }
            None => this.endpoint_ended(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Whole(bytes) => bytes.is_empty(),
            Source::Endpoint { incoming, .. } => incoming.is_end_stream(),
            Source::Compressed(compressed) => compressed.is_end_stream(),
            Source::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Endpoint { incoming, .. } => incoming.size_hint(),
            Source::Compressed(_) => SizeHint::default(),
            Source::Ended => SizeHint::with_exact(0),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if matches!(self.source, Source::Whole(_) | Source::Ended) {
            return;
        }
        // hyper drops a body of known length after its last byte, without asking for the end.
        if self.is_end_stream() {
            self.endpoint_ended();
        } else {
            self.broken_off();
        }
    }
}
