//! A stream as hyper sees it, on either side of the proxy.
//!
//! hyper hands a head and a small body over as two slices. Gathering them into one plain `send` costs the kernel
//! less than `writev`, and makes one TLS record of them instead of two; large bodies are left where they are.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Writes up to this size are gathered: copying them costs less than the longer path through the kernel.
const GATHER_BYTES_MAX: usize = 8 * 1024;

thread_local! {
    static GATHERED: RefCell<Box<[u8]>> = RefCell::new(vec![0; GATHER_BYTES_MAX].into());
}

/// How soon the kernel finds out that a silent peer is gone: after a minute and four probes, 15 s apart.
pub(crate) fn keep_alive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(Duration::from_mins(1)).with_interval(Duration::from_secs(15)).with_retries(4)
}

/// A connection that can be ended so that its other end can't take it for a proper end.
pub(crate) trait Reset {
    fn reset(self);
}

impl Reset for TcpStream {
    fn reset(self) {
        // Fails only on a connection that is gone already.
        let _ = SockRef::from(&self).set_linger(Some(Duration::ZERO));
    }
}

impl Reset for Box<tokio_rustls::server::TlsStream<TcpStream>> {
    fn reset(self) {
        self.into_inner().0.reset();
    }
}

/// What `write` makes of all slices as one; `None` where that would be too much to copy.
pub(crate) fn gathered<R>(slices: &[IoSlice<'_>], write: impl FnOnce(&[u8]) -> R) -> Option<R> {
    if let [only] = slices {
        return Some(write(only));
    }
    let length: usize = slices.iter().map(|slice| slice.len()).sum();
    if length > GATHER_BYTES_MAX {
        return None;
    }
    Some(GATHERED.with_borrow_mut(|gathered| {
        let mut at = 0;
        for slice in slices {
            gathered[at..at + slice.len()].copy_from_slice(slice);
            at += slice.len();
        }
        write(&gathered[..length])
    }))
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct HyperStream<T>(TokioIo<T>);

impl<T> HyperStream<T> {
    pub(crate) fn new(stream: T) -> Self {
        Self(TokioIo::new(stream))
    }

    pub(crate) fn get_ref(&self) -> &T {
        self.0.inner()
    }

    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

impl<T: AsyncRead + Unpin> Read for HyperStream<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> Write for HyperStream<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut stream = Pin::new(&mut self.get_mut().0);
        gathered(bufs, |bytes| stream.as_mut().poll_write(cx, bytes))
            .unwrap_or_else(|| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}
