//! A stream that carries bytes and no HTTP (RFC 8441).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Http2Body;

/// See the module's text. Dropped before its end, it resets its stream.
#[derive(Debug)]
pub(super) struct Tunnel {
    answer: Http2Body,
    sender: SendStream<Bytes>,
    /// Received, and not yet read.
    received: Bytes,
}

impl Tunnel {
    pub(super) fn new(answer: Http2Body, sender: SendStream<Bytes>) -> Self {
        Self { answer, sender, received: Bytes::new() }
    }

    /// Why the stream takes nothing.
    fn closed(&mut self, cx: &mut Context<'_>) -> io::Error {
        match self.sender.poll_reset(cx) {
            Poll::Ready(Ok(Reason::NO_ERROR | Reason::CANCEL | Reason::STREAM_CLOSED)) | Poll::Pending => {
                io::ErrorKind::BrokenPipe.into()
            }
            Poll::Ready(Ok(reason)) => broken(reason.into()),
            Poll::Ready(Err(error)) => broken(error),
        }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.received.is_empty() {
            match ready!(this.answer.stream.poll_data(cx)) {
                Some(Ok(data)) => this.received = data,
                None => return Poll::Ready(Ok(())),
                Some(Err(error)) => {
                    return Poll::Ready(match error.reason() {
                        Some(Reason::NO_ERROR | Reason::CANCEL) => Ok(()),
                        Some(Reason::STREAM_CLOSED) => Err(io::ErrorKind::BrokenPipe.into()),
                        _ => Err(broken(error)),
                    });
                }
            }
        }
        let length = this.received.len().min(buffer.remaining());
        buffer.put_slice(&this.received[..length]);
        this.received.advance(length);
        // Fails only where the stream is gone, which reading on will tell.
        let _ = this.answer.stream.flow_control().release_capacity(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.sender.reserve_capacity(bytes.len());
        while this.sender.capacity() == 0 {
            match ready!(this.sender.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(this.closed(cx))),
            }
        }
        let length = this.sender.capacity().min(bytes.len());
        match this.sender.send_data(Bytes::copy_from_slice(&bytes[..length]), false) {
            Ok(()) => Poll::Ready(Ok(length)),
            Err(_inactive) => Poll::Ready(Err(this.closed(cx))),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.sender.send_data(Bytes::new(), true).is_ok() {
            return Poll::Ready(Ok(()));
        }
        // One that was reset is over, too.
        match this.sender.poll_reset(cx) {
            Poll::Ready(Ok(Reason::NO_ERROR | Reason::CANCEL | Reason::STREAM_CLOSED)) => Poll::Ready(Ok(())),
            _ => Poll::Ready(Err(this.closed(cx))),
        }
    }
}

fn broken(error: h2::Error) -> io::Error {
    if error.is_io() {
        error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())
    } else {
        io::Error::other(error)
    }
}
