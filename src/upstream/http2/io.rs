//! An endpoint's stream as h2 sees it: small writes are gathered, and there are pauses however much there is to read.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::State;
use crate::stream::gathered;

/// Reads in a row that find something, after which a connection lets others have their turn. The runtime's own measure
/// counts reads as well, but has 128 of them, and h2 may take many KiB of small heads with each.
const TURN_READS: u8 = 4;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Turns<T> {
    stream: T,
    /// Reads left in this turn.
    left: u8,
    state: Rc<State>,
}

impl<T> Turns<T> {
    pub(super) fn new(stream: T, state: Rc<State>) -> Self {
        Self { stream, left: TURN_READS, state }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Turns<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.left == 0 {
            this.left = TURN_READS;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if read.is_pending() {
            this.left = TURN_READS;
        } else {
            this.left -= 1;
            this.state.heard.set(true);
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Turns<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut stream = Pin::new(&mut self.get_mut().stream);
        gathered(slices, |bytes| stream.as_mut().poll_write(cx, bytes))
            .unwrap_or_else(|| stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
