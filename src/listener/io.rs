//! A client's stream as hyper sees it, watched closely enough to know when hyper holds nothing of it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::passage::Plain;
use crate::proxy::Client;
use crate::stream::HyperStream;

/// A stream, the bytes already read from it, and the client whose activity it reports.
pub(super) struct Io<T> {
    stream: HyperStream<T>,
    read_ahead: Bytes,
    client: Rc<Client>,
}

impl<T> Io<T> {
    pub(super) fn new(stream: T, read_ahead: Bytes, client: Rc<Client>) -> Self {
        Self { stream: HyperStream::new(stream), read_ahead, client }
    }

    pub(super) fn into_inner(self) -> (T, Bytes) {
        (self.stream.into_inner(), self.read_ahead)
    }
}

impl<T: AsyncRead + Unpin> Read for Io<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.read_ahead.is_empty() {
            let length = this.read_ahead.len().min(buf.remaining());
            buf.put_slice(&this.read_ahead[..length]);
            this.read_ahead.advance(length);
            this.client.activity.read();
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if read.is_ready() {
            this.client.activity.read();
        }
        read
    }
}

impl<T: AsyncWrite + Plain + Unpin> Io<T> {
    /// Writes to the socket, or carries there what `bufs` begin with stand-ins for.
    fn poll_send(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let Some(passage) = self.client.passage() else {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        };
        match (bufs.iter().position(|bytes| passage.is_stand_in(bytes)), self.stream.get_ref().plain()) {
            (Some(0), Some(socket)) => passage.poll_empty(cx, socket),
            (at, _) => Pin::new(&mut self.stream).poll_write_vectored(cx, &bufs[..at.unwrap_or(bufs.len())]),
        }
    }
}

impl<T: AsyncWrite + Plain + Unpin> Write for Io<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = this.poll_send(cx, &[IoSlice::new(buf)]);
        this.client.activity.write(written.is_ready());
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = this.poll_send(cx, bufs);
        this.client.activity.write(written.is_ready());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        if flushed.is_pending() {
            this.client.activity.write(false);
        } else if this.client.activity.is_write_blocked() {
            this.client.activity.write(true);
        }
        if matches!(flushed, Poll::Ready(Ok(()))) {
            // hyper flushes the stream only once its own buffer is written out.
            this.client.activity.flushed();
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // hyper is about to give it back to be dropped, which ends a plain socket as well as this would. Who goes on reading
        // from it ends it then.
        if this.stream.get_ref().plain().is_some() || this.client.activity.is_broken_off() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}
