//! A request's body on its way upstream.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::copied::{CopiedBody, CopiedReader, Copies};
use super::http1::Http1Error;
use super::kept::{KeptBody, KeptReader};
use crate::config::LargeBody;
use crate::observe::MirrorShare;
use crate::timers::{Left, Timer, Timers};

/// Why a body was broken off before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFault {
    /// Whoever sends it broke off.
    Broken,
    /// Whoever sends it sends nothing, or too little.
    Stalled,
    /// More than a request to this service may bring.
    TooLarge,
    /// The request takes longer than it may.
    Late,
}

/// What hyper is told when a body ends too early.
#[derive(Debug)]
pub enum BodyError {
    Http(hyper::Error),
    Http1(Http1Error),
    Http2(h2::Error),
    Fault(BodyFault),
    /// Compression failed, which takes a lack of memory.
    Encoder(io::Error),
    /// The body is sent to another endpoint now.
    Superseded,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(error) => error.fmt(f),
            Self::Http1(error) => error.fmt(f),
            Self::Http2(error) => error.fmt(f),
            Self::Fault(BodyFault::Broken) => f.write_str("the body broke off"),
            Self::Fault(BodyFault::Stalled) => f.write_str("the body stands still"),
            Self::Fault(BodyFault::TooLarge) => f.write_str("the body is too large"),
            Self::Fault(BodyFault::Late) => f.write_str("the request takes too long"),
            Self::Encoder(error) => write!(f, "compression failed: {error}"),
            Self::Superseded => f.write_str("the body is sent elsewhere"),
        }
    }
}

impl Error for BodyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Http(error) => Some(error),
            Self::Http1(error) => Some(error),
            Self::Http2(error) => Some(error),
            Self::Fault(_) | Self::Superseded => None,
            Self::Encoder(error) => Some(error),
        }
    }
}

/// How much of a body may come, and how slowly.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// How long its sender may be waited for, until `pace` bytes have come.
    pub idle: Duration,
    pub pace: u64,
    pub max: u64,
}

impl BodyLimits {
    const NONE: Self = Self { idle: Duration::MAX, pace: 1, max: u64::MAX };
}

/// How far a request's body has come; shared with whoever must know whether all of it was read.
#[derive(Debug)]
pub struct RequestProgress {
    bytes: Cell<u64>,
    ended_at: Cell<Option<Instant>>,
    fault: Cell<Option<BodyFault>>,
    limits: Cell<BodyLimits>,
    wait: Wait,
    copies: Copies,
}

impl Default for RequestProgress {
    fn default() -> Self {
        Self {
            bytes: Cell::default(),
            ended_at: Cell::default(),
            fault: Cell::default(),
            limits: Cell::new(BodyLimits::NONE),
            wait: Wait::default(),
            copies: Copies::default(),
        }
    }
}

impl RequestProgress {
    /// Bounds a body of which nothing has been read.
    pub fn limit(&self, limits: BodyLimits, timers: &Rc<Timers>) {
        self.limits.set(limits);
        self.wait.left.set(Left::all_of(limits.idle));
        self.wait.timers.replace(Some(Rc::clone(timers)));
    }

    /// The exchange turns out to be meant to last: its body may be silent for `idle`.
    pub fn relax(&self, idle: Duration) {
        let limits = BodyLimits { idle, pace: 1, ..self.limits.get() };
        self.limits.set(limits);
        self.wait.restart(idle);
    }

    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// All of the body was read from the client.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended_at.get().is_some()
    }

    /// When the last of the body was read.
    #[must_use]
    pub fn ended_at(&self) -> Option<Instant> {
        self.ended_at.get()
    }

    /// The body ended too early.
    #[must_use]
    pub fn fault(&self) -> Option<BodyFault> {
        self.fault.get()
    }

    /// From here on, what comes is kept for a copy, too: `max` bytes at a time.
    #[must_use]
    pub fn copy(&self, max: usize, large_body: LargeBody, share: MirrorShare) -> CopiedBody {
        self.copies.add(max, large_body, share)
    }

    fn fail(&self, fault: BodyFault) {
        self.fault.set(Some(fault));
        self.copies.ended(false);
    }

    fn end(&self) {
        self.ended_at.set(Some(Instant::now()));
        self.copies.ended(true);
    }

    /// `count` bytes came; false when that is more than may come.
    fn came(&self, count: usize) -> bool {
        let limits = self.limits.get();
        self.bytes.set(self.bytes.get() + count as u64);
        self.wait.came(count, &limits);
        self.bytes.get() <= limits.max
    }
}

/// Waiting for a client's bytes. Only the time counts during which somebody would take them, and it begins anew once
/// as many have come as must come.
#[derive(Debug, Default)]
struct Wait {
    /// Of the worker, until there is something to wait for.
    timers: RefCell<Option<Rc<Timers>>>,
    timer: RefCell<Option<Timer>>,
    waiting: Cell<bool>,
    left: Cell<Left>,
    /// Bytes since the time began anew.
    moved: Cell<u64>,
}

impl Wait {
    /// Ready once the client has been waited for too long.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut timer = self.timer.borrow_mut();
        if timer.is_none() {
            *timer = self.timers.borrow().as_ref().map(Timers::timer);
        }
        let Some(timer) = &*timer else { return Poll::Pending };
        if !self.waiting.replace(true) {
            timer.resume(self.left.get());
        }
        timer.poll(cx)
    }

    fn came(&self, count: usize, limits: &BodyLimits) {
        if self.waiting.replace(false)
            && let Some(timer) = &*self.timer.borrow()
        {
            self.left.set(timer.left());
            timer.clear();
        }
        self.moved.set(self.moved.get() + count as u64);
        if self.moved.get() >= limits.pace {
            self.moved.set(0);
            self.left.set(Left::all_of(limits.idle));
        }
    }

    fn restart(&self, idle: Duration) {
        self.left.set(Left::all_of(idle));
        if self.waiting.get()
            && let Some(timer) = &*self.timer.borrow()
        {
            timer.set(idle);
        }
    }
}

/// The client's body, streamed; most requests have none and cost nothing here.
#[derive(Debug)]
pub enum RequestBody {
    Empty,
    Stream {
        incoming: Incoming,
        progress: Rc<RequestProgress>,
        clean: fn(&mut HeaderMap),
    },
    /// Streamed, too, and kept meanwhile, in case it must be sent again.
    Kept(KeptReader),
    /// Of a copy of a request.
    Copied(CopiedReader),
}

impl RequestBody {
    /// Wraps what the client sends; `clean` takes out of its trailers what may not go on.
    #[must_use]
    pub fn new(incoming: Incoming, clean: fn(&mut HeaderMap)) -> Self {
        if incoming.is_end_stream() { Self::Empty } else { Self::Stream { incoming, progress: Rc::default(), clean } }
    }

    /// `None` for an empty body.
    #[must_use]
    pub fn progress(&self) -> Option<Rc<RequestProgress>> {
        match self {
            Self::Empty | Self::Copied(_) => None,
            Self::Stream { progress, .. } => Some(Rc::clone(progress)),
            Self::Kept(reader) => Some(Rc::clone(&reader.kept.progress)),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// From here on, up to `max` bytes of it are kept for sending it again. `None` where there is nothing to keep, or
    /// it is known to be more.
    pub fn keep(&mut self, max: usize) -> Option<KeptBody> {
        match std::mem::replace(self, Self::Empty) {
            Self::Stream { incoming, progress, clean } if incoming.size_hint().lower() <= max as u64 && max > 0 => {
                let (body, reader) = KeptBody::new(incoming, progress, clean, max);
                *self = Self::Kept(reader);
                Some(body)
            }
            Self::Kept(reader) => {
                let body = KeptBody(Rc::clone(&reader.kept));
                *self = Self::Kept(reader);
                Some(body)
            }
            other => {
                *self = other;
                None
            }
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Stream { incoming, progress, clean } => poll_client(incoming, progress, *clean, cx),
            Self::Kept(reader) => reader.poll_frame(cx),
            Self::Copied(reader) => reader.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream { incoming, .. } => incoming.is_end_stream(),
            Self::Kept(reader) => reader.is_end_stream(),
            Self::Copied(reader) => reader.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream { incoming, .. } => incoming.size_hint(),
            Self::Kept(reader) => reader.size_hint(),
            Self::Copied(reader) => reader.size_hint(),
        }
    }
}

/// The next of what the client sends. Whoever reads it, it is counted and limited here, and once.
pub(super) fn poll_client(
    incoming: &mut Incoming,
    progress: &RequestProgress,
    clean: fn(&mut HeaderMap),
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    let Poll::Ready(mut polled) = Pin::new(&mut *incoming).poll_frame(cx) else {
        std::task::ready!(progress.wait.poll(cx));
        progress.fail(BodyFault::Stalled);
        return Poll::Ready(Some(Err(BodyError::Fault(BodyFault::Stalled))));
    };
    match &mut polled {
        Some(Ok(frame)) => {
            if let Some(data) = frame.data_ref()
                && !progress.came(data.len())
            {
                progress.fail(BodyFault::TooLarge);
                return Poll::Ready(Some(Err(BodyError::Fault(BodyFault::TooLarge))));
            }
            let is_last = frame.is_trailers() || incoming.is_end_stream();
            if let Some(trailers) = frame.trailers_mut() {
                clean(trailers);
            }
            let is_nothing = frame.trailers_ref().is_some_and(HeaderMap::is_empty);
            if !is_nothing {
                progress.copies.came(frame);
            }
            if is_last {
                progress.end();
            }
            if is_nothing {
                return Poll::Ready(None);
            }
        }
        Some(Err(_)) => progress.fail(BodyFault::Broken),
        None => {
            if !progress.ended() {
                progress.end();
            }
        }
    }
    Poll::Ready(polled.map(|frame| frame.map_err(BodyError::Http)))
}
