//! A request's body that is kept while it streams, so that it can be sent again from its start.
//!
//! What the first attempt read is kept, up to a limit; a second one gets it again and then goes on with what the
//! client still sends. There is one reader at a time: an older one, in a connection that is about to be closed, gets
//! an error. A body that outgrows its limit streams on and can't be sent again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::body::{BodyError, RequestBody, RequestProgress, poll_client};

/// Bodies may come byte by byte, and each piece takes more than its bytes.
const PIECES_MAX: usize = 1024;

/// Smaller pieces are copied; hyper reads into buffers of twice this size and more.
const COPIED_BELOW: usize = 4096;

/// The right to send a body again.
#[derive(Debug)]
pub struct KeptBody(pub(super) Rc<Kept>);

/// A body of which the start is kept.
#[derive(Debug)]
pub(super) struct Kept {
    incoming: RefCell<Incoming>,
    pub(super) progress: Rc<RequestProgress>,
    clean: fn(&mut HeaderMap),
    pieces: RefCell<Vec<Piece>>,
    /// What else may be kept; `None` once the body can't be sent again.
    left: Cell<Option<usize>>,
    /// The reader that may read.
    reader: Cell<u32>,
}

#[derive(Debug, Clone)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// One attempt's way through the body.
#[derive(Debug)]
pub struct KeptReader {
    pub(super) kept: Rc<Kept>,
    number: u32,
    /// The next piece; beyond the last, the client's next.
    next: usize,
}

impl KeptBody {
    /// The body, and the first attempt's way through it.
    pub(super) fn new(
        incoming: Incoming,
        progress: Rc<RequestProgress>,
        clean: fn(&mut HeaderMap),
        max: usize,
    ) -> (Self, KeptReader) {
        let kept = Rc::new(Kept {
            incoming: RefCell::new(incoming),
            progress,
            clean,
            pieces: RefCell::default(),
            left: Cell::new(Some(max)),
            reader: Cell::new(0),
        });
        (Self(Rc::clone(&kept)), KeptReader { kept, number: 0, next: 0 })
    }

    /// It hasn't outgrown its limit yet.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.0.left.get().is_some()
    }

    /// The body from its start, for another attempt; the one before gets no more of it. `None` when it has outgrown its
    /// limit.
    #[must_use]
    pub fn again(&self) -> Option<RequestBody> {
        self.0.left.get()?;
        let number = self.0.reader.get() + 1;
        self.0.reader.set(number);
        Some(RequestBody::Kept(KeptReader { kept: Rc::clone(&self.0), number, next: 0 }))
    }

    /// It won't be sent again: nothing more is kept, and what the reader has passed is let go.
    pub fn give_up(&self) {
        self.0.left.set(None);
    }
}

impl Kept {
    fn keep(&self, frame: &Frame<Bytes>) {
        let Some(left) = self.left.get() else { return };
        let mut pieces = self.pieces.borrow_mut();
        let Some((piece, size)) = Piece::of(frame) else { return };
        self.left.set(left.checked_sub(size).filter(|_| pieces.len() < PIECES_MAX));
        if self.left.get().is_some() {
            pieces.push(piece);
        }
    }
}

impl Piece {
    /// What is kept of a frame, and how much of the limit it takes.
    fn of(frame: &Frame<Bytes>) -> Option<(Self, usize)> {
        match (frame.data_ref(), frame.trailers_ref()) {
            // A small piece would keep the whole buffer that it was read into.
            (Some(data), _) if data.len() < COPIED_BELOW => {
                Some((Self::Data(Bytes::copy_from_slice(data)), data.len()))
            }
            (Some(data), _) => Some((Self::Data(data.clone()), data.len())),
            (None, Some(trailers)) => Some((Self::Trailers(trailers.clone()), 0)),
            (None, None) => None,
        }
    }
}

impl KeptReader {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let kept = &*self.kept;
        if kept.reader.get() != self.number {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if let Some(piece) = kept.pieces.borrow().get(self.next) {
            self.next += 1;
            return Poll::Ready(Some(Ok(match piece.clone() {
                Piece::Data(data) => Frame::data(data),
                Piece::Trailers(trailers) => Frame::trailers(trailers),
            })));
        }
        if kept.left.get().is_none() {
            // Nobody needs them any more.
            kept.pieces.take();
            self.next = 0;
        }
        if let Some(fault) = kept.progress.fault() {
            return Poll::Ready(Some(Err(BodyError::Fault(fault))));
        }
        if kept.progress.ended() {
            return Poll::Ready(None);
        }
        let polled = poll_client(&mut kept.incoming.borrow_mut(), &kept.progress, kept.clean, cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            kept.keep(frame);
            self.next = kept.pieces.borrow().len();
        }
        polled
    }

    fn is_at_end_of_pieces(&self) -> bool {
        self.next >= self.kept.pieces.borrow().len()
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.is_at_end_of_pieces() && self.kept.incoming.borrow().is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let pieces = self.kept.pieces.borrow();
        let kept = pieces.iter().skip(self.next).map(|piece| match piece {
            Piece::Data(data) => data.len() as u64,
            Piece::Trailers(_) => 0,
        });
        let (kept, coming) = (kept.sum::<u64>(), self.kept.incoming.borrow().size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(coming.lower().saturating_add(kept));
        if let Some(upper) = coming.upper() {
            hint.set_upper(upper.saturating_add(kept));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_are_copied_so_that_they_keep_no_large_buffer() {
        let buffer = Bytes::from(vec![b'x'; 1 << 20]);
        for (bytes, shared) in [(1, false), (COPIED_BELOW - 1, false), (COPIED_BELOW, true), (65_536, true)] {
            let piece = buffer.slice(100..100 + bytes);
            let Some((Piece::Data(kept), size)) = Piece::of(&Frame::data(piece.clone())) else { panic!("it is data") };
            assert_eq!((size, kept == piece), (bytes, true));
            assert_eq!(kept.as_ptr() == piece.as_ptr(), shared, "{bytes}");
        }
        let (piece, size) = Piece::of(&Frame::trailers(HeaderMap::new())).unwrap();
        assert!(matches!(piece, Piece::Trailers(_)) && size == 0);
    }
}
