//! An HTTP/1 connection to an endpoint, driven by the requests that use it.
//!
//! ```text
//! begin ──> poll_head: writes the request, reads the head ──> poll_frame: reads the body ──> is_reusable
//!                                     └─ 101: the stream is handed on
//! ```
//!
//! hyper's own client connection is a task of its own, which a request reaches through channels: it wakes that task to
//! be written, is woken for its head and, once more, for its body. Here a request's own task writes and reads, and what
//! it had to be turned into for that isn't made. That takes a quarter of the instructions of a small exchange away
//! (`docs/benchmarks.md`). Heads are still read by hyper's own parser, and what can be read in two ways is refused.

mod answer;
mod framing;
mod io;
mod request;

use std::cell::RefCell;
use std::fmt;
use std::io::ErrorKind;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::io::poll_read_buf;

use super::connect::UpgradedStream;
use super::{BodyError, RequestBody};
use crate::passage::{Inlet, LENGTH_MIN};
use framing::{Framing, Piece};
pub(super) use io::Io;
use request::{Outgoing, WriteError};

/// A response's head, and the trailers of a chunked one: twice what we take from a client.
const HEAD_BYTES: usize = 64 * 1024;
/// The most fields of either.
const FIELDS_MAX: usize = 100;
/// What is read at once, at first, and at most: large bodies come in reads of this size; larger ones cost slow readers'
/// memory and gain nothing that can be measured.
const READ_BYTES_MIN: usize = 8 * 1024;
const READ_BYTES_MAX: usize = 64 * 1024;
/// Less room than this isn't worth a read.
const READ_BYTES_LEAST: usize = 1024;
/// Frames in a row, after which others have their turn.
const TURN_FRAMES: u8 = 64;
/// How long the rest of a request is written whose answer has been passed on.
const LEFT_TIME_MAX: Duration = Duration::from_secs(60);
/// Reads in a row that find nothing but heads that announce others; then others have their turn.
const INTERIM_TURNS: usize = 16;

/// What an endpoint sent is no HTTP/1, or could be read in two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(&'static str);

/// Why a connection gave no answer, or only the beginning of one.
#[derive(Debug)]
pub enum Http1Error {
    /// Before a byte of the answer.
    Closed(Option<std::io::Error>),
    /// In the middle of it.
    Cut(Option<std::io::Error>),
    Malformed(Malformed),
    /// The request's body broke off.
    Request(Box<BodyError>),
    /// The request's body has another length than its head says.
    RequestLength,
}

impl fmt::Display for Http1Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(None) => f.write_str("the connection was closed before an answer"),
            Self::Closed(Some(error)) => write!(f, "the connection broke before an answer: {error}"),
            Self::Cut(None) => f.write_str("the connection was closed in the middle of an answer"),
            Self::Cut(Some(error)) => write!(f, "the connection broke in the middle of an answer: {error}"),
            Self::Malformed(Malformed(why)) => write!(f, "the answer is no HTTP: {why}"),
            Self::Request(error) => write!(f, "the request broke off: {error}"),
            Self::RequestLength => f.write_str("the request isn't as long as it says"),
        }
    }
}

impl std::error::Error for Http1Error {}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Http1Connection {
    state: RefCell<State>,
    /// Where to deliver the stream if the endpoint agrees to an upgrade.
    upgrade: RefCell<Option<oneshot::Sender<UpgradedStream>>>,
}

#[derive(Debug)]
struct State {
    /// `None`: closed, or handed on.
    io: Option<Io>,
    received: BytesMut,
    /// Of a head that isn't whole.
    scanned: usize,
    read_bytes: usize,
    outgoing: Outgoing,
    /// What the request asks for is a head alone.
    to_head: bool,
    framing: Framing,
    keeps_alive: bool,
    /// Through which the rest of the body goes without being read.
    passage: Option<Inlet>,
    /// Frames that may follow before others have their turn.
    turn: u8,
    /// Why there is no more of the answer.
    failed: Option<Http1Error>,
    /// Writes the rest of a request that was answered before its end, whatever becomes of the answer.
    writer: Option<JoinHandle<()>>,
    /// Waits for the answer while that writes.
    reader: Option<Waker>,
}

impl Http1Connection {
    pub(super) fn new(io: Io) -> Self {
        let state = State {
            io: Some(io),
            received: BytesMut::new(),
            scanned: 0,
            read_bytes: READ_BYTES_MIN,
            outgoing: Outgoing::default(),
            to_head: false,
            framing: Framing::Ended,
            keeps_alive: true,
            passage: None,
            turn: TURN_FRAMES,
            failed: None,
            writer: None,
            reader: None,
        };
        Self { state: RefCell::new(state), upgrade: RefCell::default() }
    }

    /// Begins an exchange: takes the body out of `request`, whose head is written as soon as it is asked for the answer.
    pub(super) fn begin(&self, request: &mut Request<RequestBody>, authority: &HeaderValue) {
        let state = &mut *self.state.borrow_mut();
        state.to_head = *request.method() == Method::HEAD;
        state.framing = Framing::Ended;
        state.outgoing.begin(request, authority);
    }

    /// The head of the answer. Interim ones (1xx) are left out.
    pub(super) fn poll_head(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Http1Error>> {
        let state = &mut *self.state.borrow_mut();
        let response = match ready!(state.poll_head(cx)) {
            Ok(response) => response,
            Err(error) => {
                state.close();
                return Poll::Ready(Err(error));
            }
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.hand_on(state);
        } else if !state.outgoing.is_done() {
            let connection = Rc::clone(self);
            state.writer = Some(tokio::task::spawn_local(async move { connection.write_rest().await }));
        }
        Poll::Ready(Ok(response))
    }

    /// HTTP has ended here; what it was about goes on elsewhere, if it was asked for.
    fn hand_on(&self, state: &mut State) {
        let Some(io) = state.io.take() else { return };
        if let Some(waiting) = self.upgrade.take() {
            let stream = UpgradedStream { stream: Box::new(io), read_ahead: state.received.split().freeze() };
            // Nobody waits any more when the client has left: the stream is dropped and so closed.
            drop(waiting.send(stream));
        }
    }

    /// Writes what is left of the request beside the answer's reader.
    async fn write_rest(self: Rc<Self>) {
        std::future::poll_fn(|cx| {
            let state = &mut *self.state.borrow_mut();
            let State { io: Some(io), outgoing, .. } = state else { return Poll::Ready(()) };
            match ready!(outgoing.poll(io, cx)) {
                Ok(()) => {}
                // It may have said all that it has to say, and the answer is still to be read.
                Err(WriteError::Io(_)) => {
                    outgoing.give_up();
                    state.keeps_alive = false;
                }
                Err(WriteError::Body(_) | WriteError::Length) => {
                    state.io = None;
                    state.reader.take().inspect(Waker::wake_by_ref);
                }
            }
            Poll::Ready(())
        })
        .await;
    }

    /// The next of the answer's body.
    pub(super) fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let state = &mut *self.state.borrow_mut();
        if let Some(error) = state.failed.take() {
            return Poll::Ready(Some(Err(BodyError::Http1(error))));
        }
        // What has been read costs no system call, which is all that the runtime counts.
        if state.turn == 0 {
            state.turn = TURN_FRAMES;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        state.turn -= 1;
        let Poll::Ready(polled) = state.poll_frame(cx) else {
            state.turn = TURN_FRAMES;
            return Poll::Pending;
        };
        match polled {
            Some(Err(error)) => {
                state.close();
                // Told in the next turn: what came before it is to be passed on first.
                state.failed = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            frame => Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Http1))),
        }
    }

    pub(super) fn is_passable(&self) -> bool {
        let state = self.state.borrow();
        matches!(state.framing, Framing::Length(LENGTH_MIN..)) && matches!(state.io, Some(Io::Tcp(_)))
    }

    pub(super) fn pass_through(&self, inlet: Inlet) {
        self.state.borrow_mut().passage = Some(inlet);
    }

    pub(super) fn waits_for_client(&self) -> bool {
        self.state.borrow().passage.as_ref().is_some_and(Inlet::is_full)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.state.borrow().framing.is_ended()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.state.borrow().framing.length().map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    /// Whether another request may follow. The rest of an answer that nobody wants is thrown away, if it has come.
    pub(super) fn is_reusable(&self) -> bool {
        let state = &mut *self.state.borrow_mut();
        state.passage = None;
        state.skip_received();
        let is_over = state.framing.is_ended() && state.outgoing.is_done();
        if !is_over || !state.keeps_alive || state.io.is_none() || !state.received.is_empty() {
            return false;
        }
        // A large buffer is for a large body.
        if state.read_bytes > READ_BYTES_MIN {
            (state.received, state.read_bytes) = (BytesMut::new(), READ_BYTES_MIN);
        }
        state.outgoing.rest();
        (state.writer, state.reader) = (None, None);
        true
    }

    /// Nobody uses it any more, and all of the answer has come. What is left of its request is still written: an endpoint
    /// may well say yes before it has read everything.
    pub(super) fn leave(self: &Rc<Self>) {
        let state = &mut *self.state.borrow_mut();
        state.passage = None;
        let is_answered = state.framing.is_ended() && !state.outgoing.is_done() && state.io.is_some();
        let Some(mut writer) = state.writer.take_if(|_| is_answered) else { return state.close() };
        let connection = Rc::clone(self);
        tokio::task::spawn_local(async move {
            if tokio::time::timeout(LEFT_TIME_MAX, &mut writer).await.is_err() {
                writer.abort();
            }
            connection.close();
        });
    }

    /// Whether the endpoint has closed it, by a look at the socket itself: what the runtime knows may be a moment old.
    pub(super) fn is_gone(&self) -> bool {
        self.state.borrow().io.as_ref().is_none_or(Io::is_gone)
    }

    /// Whether the endpoint has closed it, or said something that nobody asked for.
    pub(super) fn is_closed(&self) -> bool {
        let state = &mut *self.state.borrow_mut();
        let Some(io) = &mut state.io else { return true };
        let mut byte = [0; 1];
        // Costs no system call unless something has come.
        Pin::new(io).poll_read(&mut Context::from_waker(Waker::noop()), &mut ReadBuf::new(&mut byte)).is_ready()
    }

    pub(super) fn close(&self) {
        self.state.borrow_mut().close();
    }

    /// Asks for the raw stream, should the endpoint answer 101.
    pub(super) fn expect_upgrade(&self) -> oneshot::Receiver<UpgradedStream> {
        let (sender, receiver) = oneshot::channel();
        self.upgrade.replace(Some(sender));
        receiver
    }

    /// The endpoint didn't upgrade.
    pub(super) fn forget_upgrade(&self) {
        self.upgrade.replace(None);
    }
}

impl State {
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Http1Error>> {
        let Some(io) = &mut self.io else { return Poll::Ready(Err(Http1Error::Closed(None))) };
        let written = match self.outgoing.poll(io, cx) {
            Poll::Ready(Err(WriteError::Io(error))) => {
                // It may have answered, and closed because of what it has read so far.
                self.outgoing.give_up();
                self.keeps_alive = false;
                Some(error)
            }
            Poll::Ready(Err(WriteError::Body(error))) => return Poll::Ready(Err(Http1Error::Request(Box::new(error)))),
            Poll::Ready(Err(WriteError::Length)) => return Poll::Ready(Err(Http1Error::RequestLength)),
            Poll::Ready(Ok(())) | Poll::Pending => None,
        };
        for _ in 0..INTERIM_TURNS {
            while self.received.is_empty() || self.scanned == self.received.len() {
                let before = self.received.len();
                let count = match ready!(self.poll_fill(cx)) {
                    Ok(count) => count,
                    Err(error) if before == 0 => {
                        return Poll::Ready(Err(Http1Error::Closed(Some(written.unwrap_or(error)))));
                    }
                    Err(error) => return Poll::Ready(Err(Http1Error::Cut(Some(error)))),
                };
                if count == 0 {
                    let end = if before == 0 { Http1Error::Closed(written) } else { Http1Error::Cut(None) };
                    return Poll::Ready(Err(end));
                }
            }
            let head = answer::take_head(&mut self.received, &mut self.scanned, self.to_head);
            let Some(head) = head.map_err(Http1Error::Malformed)? else { continue };
            let status = head.response.status();
            if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
                continue;
            }
            self.framing = head.framing;
            self.keeps_alive &= head.keeps_alive;
            return Poll::Ready(Ok(head.response));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Http1Error>>> {
        loop {
            match self.framing.next(&mut self.received) {
                Ok(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Piece::Trailers(trailers)) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Ok(Piece::End) => return Poll::Ready(None),
                Ok(Piece::More) => {}
                Err(malformed) => return Poll::Ready(Some(Err(Http1Error::Malformed(malformed)))),
            }
            let filled = match self.poll_pass(cx) {
                Poll::Ready(Some(passed)) => return Poll::Ready(Some(passed.map(Frame::data))),
                Poll::Ready(None) => self.poll_fill(cx),
                Poll::Pending => Poll::Pending,
            };
            let Poll::Ready(filled) = filled else {
                if self.writer.is_some() {
                    self.reader = Some(cx.waker().clone());
                }
                return Poll::Pending;
            };
            match filled {
                Ok(0) if self.framing == Framing::Close => {
                    self.framing = Framing::Ended;
                    return Poll::Ready(None);
                }
                Ok(0) => return Poll::Ready(Some(Err(Http1Error::Cut(None)))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(Http1Error::Cut(Some(error))))),
            }
        }
    }

    /// Has the next of the body carried on; `None` where it has to be read.
    fn poll_pass(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Http1Error>>> {
        let (Some(inlet), Framing::Length(left), Some(Io::Tcp(stream))) = (&self.passage, &mut self.framing, &self.io)
        else {
            return Poll::Ready(None);
        };
        match ready!(inlet.poll_fill(cx, stream, *left)) {
            Ok(Some(passed)) if passed.is_empty() => Poll::Ready(Some(Err(Http1Error::Cut(None)))),
            Ok(Some(passed)) => {
                *left -= passed.len() as u64;
                Poll::Ready(Some(Ok(passed)))
            }
            Ok(None) => {
                self.passage = None;
                Poll::Ready(None)
            }
            Err(error) => Poll::Ready(Some(Err(Http1Error::Cut(Some(error))))),
        }
    }

    /// Reads more; 0 at the connection's end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        let Some(io) = &mut self.io else { return Poll::Ready(Err(ErrorKind::NotConnected.into())) };
        let mut room = self.received.capacity() - self.received.len();
        if room < READ_BYTES_LEAST {
            self.received.reserve(self.read_bytes);
            room = self.received.capacity() - self.received.len();
        }
        let count = ready!(poll_read_buf(Pin::new(io), cx, &mut self.received))?;
        if count >= room.min(self.read_bytes) {
            self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
        }
        Poll::Ready(Ok(count))
    }

    /// Throws away what has come of an answer.
    fn skip_received(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut left = READ_BYTES_MAX;
        while !self.framing.is_ended() && self.framing != Framing::Close && left > 0 && self.io.is_some() {
            match self.poll_frame(&mut cx) {
                Poll::Ready(Some(Ok(frame))) => left = left.saturating_sub(frame.data_ref().map_or(1, Bytes::len)),
                Poll::Ready(Some(Err(_))) => self.io = None,
                Poll::Ready(None) | Poll::Pending => return,
            }
        }
    }

    /// Nobody uses it any more.
    fn close(&mut self) {
        self.passage = None;
        if let Some(writer) = self.writer.take() {
            writer.abort();
        }
        self.outgoing.give_up();
        if let Some(mut io) = self.io.take() {
            // Tells a TLS endpoint that this is the end, as far as that can be told without waiting.
            let _ = Pin::new(&mut io).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.close();
    }
}
