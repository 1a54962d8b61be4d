//! An answer's body.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::response;
use http_body::{Body, Frame, SizeHint};
use tokio::task::JoinHandle;

use super::tunnel::Tunnel;
use crate::upstream::{BodyError, UpgradedStream};

/// See the module's text. Dropped before its end, it resets its stream.
#[derive(Debug)]
pub struct Http2Body {
    pub(super) stream: RecvStream,
    /// What is still to come, where the endpoint has said it.
    length: Option<u64>,
    data_ended: bool,
    ended: bool,
    beside: Beside,
}

/// What goes on in the other direction.
#[derive(Debug)]
enum Beside {
    Nothing,
    /// The request's body is still sent.
    Upload(JoinHandle<()>),
    Tunnel(SendStream<Bytes>),
}

impl Http2Body {
    pub(super) fn new(head: &response::Parts, stream: RecvStream) -> Self {
        // h2 has checked that it is a number, and counts what comes.
        let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter();
        let length = lengths.next().filter(|first| lengths.all(|other| other == first));
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let length = length.or_else(|| stream.is_end_stream().then_some(0));
        Self { stream, length, data_ended: false, ended: false, beside: Beside::Nothing }
    }

    /// The request is still being sent.
    pub(super) fn goes_on(&mut self, upload: JoinHandle<()>) {
        self.beside = Beside::Upload(upload);
    }

    /// The request asked for a tunnel.
    pub(super) fn may_tunnel(&mut self, stream: SendStream<Bytes>) {
        self.beside = Beside::Tunnel(stream);
    }

    /// The stream as bytes in both directions, where that was asked for.
    pub(in crate::upstream) fn into_tunnel(mut self) -> Option<UpgradedStream> {
        let Beside::Tunnel(sender) = std::mem::replace(&mut self.beside, Beside::Nothing) else { return None };
        let stream = Box::new(Tunnel::new(self, sender));
        Some(UpgradedStream { stream, read_ahead: Bytes::new() })
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let polled = ready!(self.stream.poll_data(cx));
        if let Some(Ok(data)) = &polled {
            // Fails only where the stream is gone, which reading on will tell.
            let _ = self.stream.flow_control().release_capacity(data.len());
            self.length = self.length.map(|length| length.saturating_sub(data.len() as u64));
        }
        Poll::Ready(polled)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_ended {
            match ready!(self.poll_data(cx)) {
                Some(data) => return Poll::Ready(Some(data.map(Frame::data))),
                None => self.data_ended = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose())
    }
}

impl Body for Http2Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = match ready!(this.poll_next(cx)) {
            // The whole answer came, and the endpoint wants no more of the request (RFC 9113, 8.1).
            Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => None,
            frame => frame,
        };
        this.ended |= frame.as_ref().is_none_or(|frame| frame.as_ref().is_ok_and(Frame::is_trailers));
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Http2)))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Http2Body {
    fn drop(&mut self) {
        if let Beside::Upload(upload) = &self.beside
            && !self.ended
            && !self.stream.is_end_stream()
        {
            upload.abort();
        }
    }
}
