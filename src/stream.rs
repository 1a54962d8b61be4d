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

impl Reset for tokio_rustls::server::TlsStream<TcpStream> {
    fn reset(self) {
        self.into_inner().0.reset();
    }
}

/// Reads in a row that find something, after which an endpoint's connection lets others have their turn. The runtime's
/// own measure counts reads as well, but has 128 of them, and hyper may take hundreds of KiB of small heads with each.
const TURN_READS: u8 = 4;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct HyperStream<T> {
    io: TokioIo<T>,
    /// Reads left in this turn; `None`: turns don't end.
    turn: Option<u8>,
}

impl<T> HyperStream<T> {
    pub(crate) fn new(stream: T) -> Self {
        Self { io: TokioIo::new(stream), turn: None }
    }

    /// One that pauses now and then, however much there is to read.
    pub(crate) fn in_turns(stream: T) -> Self {
        Self { io: TokioIo::new(stream), turn: Some(TURN_READS) }
    }

    pub(crate) fn get_ref(&self) -> &T {
        self.io.inner()
    }

    pub(crate) fn into_inner(self) -> T {
        self.io.into_inner()
    }
}

impl<T: AsyncRead + Unpin> Read for HyperStream<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(left) = &mut this.turn {
            if *left == 0 {
                *left = TURN_READS;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            *left -= 1;
        }
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        if read.is_pending()
            && let Some(left) = &mut this.turn
        {
            *left = TURN_READS;
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> Write for HyperStream<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.get_mut().io);
        if let [only] = bufs {
            return stream.poll_write(cx, only);
        }
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        if length > GATHER_BYTES_MAX {
            return stream.poll_write_vectored(cx, bufs);
        }
        GATHERED.with_borrow_mut(|gathered| {
            let mut at = 0;
            for buf in bufs {
                gathered[at..at + buf.len()].copy_from_slice(buf);
                at += buf.len();
            }
            stream.poll_write(cx, &gathered[..length])
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
