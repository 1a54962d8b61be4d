//! A request's body that is copied while it streams: what the client's request reads is kept for a copy that nobody
//! waits for.
//!
//! ```text
//! client -> poll_client -> the request's own endpoint
//!              |
//!              +-> buffer -> the copy's endpoint        full: the copy is given up, the request notices nothing
//! ```

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use super::body::{BodyError, BodyFault, RequestBody};
use crate::config::LargeBody;
use crate::observe::{MirrorDrop, MirrorShare};

/// What a piece costs besides its bytes: bodies may come byte by byte.
const PIECE_BYTES: usize = 64;
/// As what trailers are counted.
const TRAILERS_BYTES: usize = 1024;
/// Smaller pieces are copied: each would keep the whole buffer that it was read into.
const COPIED_BELOW: usize = 4096;

/// What is kept for a copy of a body; dropped, nothing more is.
#[derive(Debug)]
pub struct CopiedBody(Rc<Buffer>);

/// The copy's way through it.
#[derive(Debug)]
pub struct CopiedReader(Rc<Buffer>);

/// The copies of one body. Dropped before the body's end, the copies have none.
#[derive(Debug, Default)]
pub(super) struct Copies(RefCell<Vec<Rc<Buffer>>>);

#[derive(Debug)]
struct Buffer {
    max: usize,
    large_body: LargeBody,
    pieces: RefCell<VecDeque<Piece>>,
    share: RefCell<MirrorShare>,
    /// Bytes of `pieces`, and what they cost.
    bytes: Cell<usize>,
    cost: Cell<usize>,
    end: Cell<Option<Result<Instant, MirrorDrop>>>,
    /// When something of it came last.
    heard: Cell<Instant>,
    /// Of the one who sends it.
    reader: RefCell<Option<Waker>>,
    /// Of the one who waits for its end.
    owner: RefCell<Option<Waker>>,
}

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Piece {
    fn cost(&self) -> usize {
        PIECE_BYTES
            + match self {
                Self::Data(data) => data.len(),
                Self::Trailers(_) => TRAILERS_BYTES,
            }
    }
}

impl Copies {
    /// Another copy, of which `max` bytes are held at most.
    pub(super) fn add(&self, max: usize, large_body: LargeBody, share: MirrorShare) -> CopiedBody {
        let buffer = Rc::new(Buffer {
            max,
            large_body,
            pieces: RefCell::default(),
            share: RefCell::new(share),
            bytes: Cell::new(0),
            cost: Cell::new(0),
            end: Cell::new(None),
            heard: Cell::new(Instant::now()),
            reader: RefCell::default(),
            owner: RefCell::default(),
        });
        self.0.borrow_mut().push(Rc::clone(&buffer));
        CopiedBody(buffer)
    }

    pub(super) fn came(&self, frame: &Frame<Bytes>) {
        for copy in &*self.0.borrow() {
            copy.came(frame);
        }
    }

    /// The whole body has come, or it won't.
    pub(super) fn ended(&self, whole: bool) {
        for copy in self.0.borrow_mut().drain(..) {
            copy.finish(if whole { Ok(Instant::now()) } else { Err(MirrorDrop::RequestBroken) });
        }
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        self.ended(false);
    }
}

impl Buffer {
    fn came(&self, frame: &Frame<Bytes>) {
        if self.end.get().is_some() {
            return;
        }
        let piece = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) if data.len() < COPIED_BELOW => Piece::Data(Bytes::copy_from_slice(data)),
            (Some(data), _) => Piece::Data(data.clone()),
            (None, Some(trailers)) => Piece::Trailers(trailers.clone()),
            (None, None) => return,
        };
        self.heard.set(Instant::now());
        let (cost, bytes) = (piece.cost(), frame.data_ref().map_or(0, Bytes::len));
        if self.bytes.get() + bytes > self.max {
            return self.finish(Err(match self.large_body {
                LargeBody::Skip => MirrorDrop::BodyTooLarge,
                LargeBody::Stream => MirrorDrop::TooSlow,
            }));
        }
        if !self.share.borrow_mut().take(cost) {
            return self.finish(Err(MirrorDrop::Memory));
        }
        self.bytes.set(self.bytes.get() + bytes);
        self.cost.set(self.cost.get() + cost);
        self.pieces.borrow_mut().push_back(piece);
        wake(&self.reader);
    }

    fn finish(&self, end: Result<Instant, MirrorDrop>) {
        if self.end.get().is_some() {
            return;
        }
        self.end.set(Some(end));
        if end.is_err() {
            self.clear();
        }
        wake(&self.reader);
        wake(&self.owner);
    }

    fn clear(&self) {
        self.pieces.take();
        self.share.borrow_mut().give_back(self.cost.replace(0));
        self.bytes.set(0);
    }

    fn pop(&self) -> Option<Piece> {
        let piece = self.pieces.borrow_mut().pop_front()?;
        let cost = piece.cost();
        self.share.borrow_mut().give_back(cost);
        self.cost.set(self.cost.get() - cost);
        if let Piece::Data(data) = &piece {
            self.bytes.set(self.bytes.get() - data.len());
        }
        Some(piece)
    }

    fn is_passed_on(&self) -> bool {
        matches!(self.end.get(), Some(Ok(_))) && self.pieces.borrow().is_empty()
    }
}

fn wake(waker: &RefCell<Option<Waker>>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

fn remember(waker: &RefCell<Option<Waker>>, cx: &Context<'_>) {
    match &mut *waker.borrow_mut() {
        Some(waker) => waker.clone_from(cx.waker()),
        none => *none = Some(cx.waker().clone()),
    }
}

impl CopiedBody {
    /// The body, once. Until all of it has come, it can only be sent as it comes.
    #[must_use]
    pub fn reader(&self) -> RequestBody {
        RequestBody::Copied(CopiedReader(Rc::clone(&self.0)))
    }

    /// When all of it had come; `None` while it comes.
    ///
    /// # Errors
    /// When it won't be whole: why.
    pub fn end(&self) -> Result<Option<Instant>, MirrorDrop> {
        self.0.end.get().transpose()
    }

    /// The same; ready when it is known. Wakes the task when that changes.
    pub fn poll_end(&self, cx: &Context<'_>) -> Poll<Result<Instant, MirrorDrop>> {
        match self.0.end.get() {
            Some(end) => Poll::Ready(end),
            None => {
                remember(&self.0.owner, cx);
                Poll::Pending
            }
        }
    }

    /// For how long nothing of it has come.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.0.heard.get().elapsed()
    }

    /// All of it has been handed to the connection.
    #[must_use]
    pub fn is_passed_on(&self) -> bool {
        self.0.is_passed_on()
    }
}

impl Drop for CopiedBody {
    fn drop(&mut self) {
        self.0.finish(Err(MirrorDrop::RequestBroken));
        self.0.clear();
    }
}

impl CopiedReader {
    pub(super) fn poll_frame(&self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(piece) = self.0.pop() {
            return Poll::Ready(Some(Ok(match piece {
                Piece::Data(data) => Frame::data(data),
                Piece::Trailers(trailers) => Frame::trailers(trailers),
            })));
        }
        match self.0.end.get() {
            Some(Ok(_)) => Poll::Ready(None),
            Some(Err(_)) => Poll::Ready(Some(Err(BodyError::Fault(BodyFault::Broken)))),
            None => {
                remember(&self.0.reader, cx);
                Poll::Pending
            }
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.0.is_passed_on()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let held = self.0.bytes.get() as u64;
        if matches!(self.0.end.get(), Some(Ok(_))) {
            return SizeHint::with_exact(held);
        }
        let mut hint = SizeHint::new();
        hint.set_lower(held);
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::observe::MirrorMemory;

    fn copy(copies: &Copies, memory: &Arc<MirrorMemory>, max: usize, large_body: LargeBody) -> CopiedBody {
        copies.add(max, large_body, MirrorShare::new(memory, 1000))
    }

    fn next(reader: &RequestBody) -> Poll<Option<Vec<u8>>> {
        let RequestBody::Copied(reader) = reader else { unreachable!("it is a copy") };
        let polled = reader.poll_frame(&Context::from_waker(Waker::noop()));
        polled.map(|frame| frame.map(|frame| frame.unwrap().into_data().unwrap().to_vec()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_is_read_as_it_comes_and_gives_its_memory_back() {
        let (copies, memory) = (Copies::default(), Arc::default());
        let body = copy(&copies, &memory, 8, LargeBody::Stream);
        let reader = body.reader();
        assert!(next(&reader).is_pending());
        for _ in 0..100 {
            copies.came(&Frame::data(Bytes::from_static(b"12345678")));
            assert_eq!(next(&reader), Poll::Ready(Some(b"12345678".to_vec())));
        }
        assert_eq!((memory.used(), body.end()), (0, Ok(None)));
        copies.ended(true);
        assert_eq!(next(&reader), Poll::Ready(None));
        assert!(body.is_passed_on() && body.end().is_ok_and(|at| at.is_some()));
    }

    #[test]
    fn a_copy_that_is_larger_or_slower_than_it_may_be_is_given_up() {
        for (large_body, why) in [(LargeBody::Skip, MirrorDrop::BodyTooLarge), (LargeBody::Stream, MirrorDrop::TooSlow)]
        {
            let (copies, memory) = (Copies::default(), Arc::default());
            let body = copy(&copies, &memory, 8, large_body);
            copies.came(&Frame::data(Bytes::from_static(b"12345678")));
            assert!(memory.used() > 0);
            copies.came(&Frame::data(Bytes::from_static(b"9")));
            assert_eq!((memory.used(), body.end()), (0, Err(why)));
        }
    }

    #[test]
    fn many_small_pieces_cost_what_they_cost() {
        let (copies, memory) = (Copies::default(), Arc::default());
        let body = copy(&copies, &memory, 1000, LargeBody::Skip);
        for _ in 0..20 {
            copies.came(&Frame::data(Bytes::from_static(b"1")));
        }
        assert_eq!((memory.used(), body.end()), (0, Err(MirrorDrop::Memory)));
    }

    #[test]
    fn a_body_that_breaks_off_breaks_its_copies_off_and_a_dropped_copy_keeps_nothing() {
        let (copies, memory) = (Copies::default(), Arc::default());
        let (one, other) = (copy(&copies, &memory, 8, LargeBody::Skip), copy(&copies, &memory, 8, LargeBody::Skip));
        copies.came(&Frame::data(Bytes::from_static(b"1")));
        drop(one);
        copies.came(&Frame::data(Bytes::from_static(b"2")));
        assert_eq!(memory.used(), 2 * (PIECE_BYTES as u64 + 1));
        drop(copies);
        assert_eq!((memory.used(), other.end()), (0, Err(MirrorDrop::RequestBroken)));
    }
}
