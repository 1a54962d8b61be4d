//! Asking one backend for the sake of a mirror: a connection of the mirrors' own, the request, and the answer, read as
//! far as it may be.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Method, StatusCode};
use http_body::Body;
use tokio::time::Instant;

use super::{Capture, CopiedHead};
use crate::config::{MirrorConfig, UpstreamProtocol};
use crate::model::Ends;
use crate::observe::MirrorDrop;
use crate::state::{Backend, Place, Places};
use crate::timers::Timer;
use crate::upstream::{AnswerBody, ConnectError, CopiedBody, Freshness, Lease, LocalEndpoint, RequestBody, Why};
use crate::worker::{BackendView, Worker};

/// Connections that copies of a mirror open at a time, over all workers: a burst that finds none open doesn't need one
/// for each, since those that are answered leave theirs to others.
const CONNECTS_MAX: u32 = 16;

/// Whom, and how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leg<'a> {
    pub(super) worker: &'a Rc<Worker>,
    pub(super) view: &'a BackendView,
    pub(super) config: &'a MirrorConfig,
    pub(super) connect: Duration,
    pub(super) connects: &'a Arc<Places>,
    pub(super) ends: &'a Ends,
}

/// An answer that was read to its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Read {
    pub(super) status: StatusCode,
}

/// Whether a backend takes copies now. One that has as many requests as it may must not get more: those that its
/// clients wait for go first.
pub(super) fn takes_copies(backend: &Backend, view: &BackendView) -> Result<(), MirrorDrop> {
    if backend.is_drained() {
        return Err(MirrorDrop::Drained);
    }
    if let Some(max) = backend.limits.and_then(|limits| limits.requests) {
        let copies: u32 = view.copies.iter().map(|endpoint| endpoint.in_flight()).sum();
        if backend.limiter.queued() > 0 || backend.limiter.in_use().saturating_add(copies) >= max {
            return Err(MirrorDrop::BackendFull);
        }
    }
    let now = Instant::now();
    let mut available = view.copies.iter().filter(|endpoint| is_available(endpoint, now)).peekable();
    if available.peek().is_none() {
        return Err(MirrorDrop::Unavailable);
    }
    if available.any(|endpoint| endpoint.has_room()) { Ok(()) } else { Err(MirrorDrop::BackendFull) }
}

fn is_available(endpoint: &LocalEndpoint, now: Instant) -> bool {
    endpoint.endpoint.health.is_available() && !endpoint.is_held_back(now)
}

impl Leg<'_> {
    /// Sends the request and reads the answer; `capture` keeps of it what is compared.
    pub(super) async fn ask(
        &self,
        head: &mut CopiedHead,
        body: Option<&CopiedBody>,
        mut capture: Option<&mut Capture>,
    ) -> Result<Read, MirrorDrop> {
        let mut freshness = Freshness::Any;
        loop {
            let mut lease = self.lease(freshness).await?;
            let clock = Clock::start(self.worker.timers.timer(), self.config.timeout, body);
            let response = match clock
                .within(head.send(&mut lease, body.map_or(RequestBody::Empty, CopiedBody::reader)))
                .await?
            {
                Ok(response) => response,
                // Its other end has just closed it, which says nothing about anybody.
                Err(error)
                    if lease.reused() && body.is_none() && freshness == Freshness::Any && error.why() != Why::Other =>
                {
                    freshness = Freshness::New;
                    continue;
                }
                Err(_) => return Err(clock.fault().unwrap_or(MirrorDrop::Broken)),
            };
            let status = response.status();
            if status == StatusCode::SWITCHING_PROTOCOLS {
                return Err(MirrorDrop::Broken);
            }
            if let Some(capture) = &mut capture {
                capture.head_after(clock.elapsed());
                let names = self.config.compare.iter().flat_map(|compare| &compare.headers);
                capture.head(status, response.headers(), names);
            }
            let incoming = response.into_body();
            let announced = if has_body(head.method(), status) { incoming.size_hint().lower() } else { 0 };
            self.read(incoming, announced, &clock, capture.as_deref_mut()).await?;
            // One that answers early may still be reading.
            if body.is_none_or(CopiedBody::is_passed_on) {
                lease.give_back_or_close();
            }
            return Ok(Read { status });
        }
    }

    async fn read(
        &self,
        mut incoming: AnswerBody,
        announced: u64,
        clock: &Clock<'_>,
        mut capture: Option<&mut Capture>,
    ) -> Result<(), MirrorDrop> {
        let mut max = self.config.answer_max;
        if announced > max {
            // Given up in any case: only what is compared is worth reading.
            max = self.compared_max();
            if max == 0 {
                return Err(too_large(capture, announced));
            }
        }
        let (mut length, mut turn) = (0, 0);
        while let Some(frame) = clock.within(poll_fn(|cx| Pin::new(&mut incoming).poll_frame(cx))).await? {
            let frame = frame.map_err(|_| clock.fault().unwrap_or(MirrorDrop::Broken))?;
            if let Some(data) = frame.data_ref() {
                length += data.len() as u64;
                turn += data.len();
                if turn >= TURN_BYTES {
                    // Requests come first: what is there of an answer may be a lot.
                    turn = 0;
                    tokio::task::yield_now().await;
                }
                if let Some(capture) = &mut capture {
                    capture.data(data);
                }
                if length > max || length == max && announced > max {
                    return Err(too_large(capture, announced));
                }
            } else if let (Some(trailers), Some(capture)) = (frame.trailers_ref(), &mut capture) {
                let names = self.config.compare.iter().flat_map(|compare| &compare.headers);
                capture.trailers(trailers, names);
            }
        }
        Ok(())
    }

    /// How much of a body is compared.
    fn compared_max(&self) -> u64 {
        self.config.compare.as_ref().map_or(0, |compare| compare.body_max as u64).min(self.config.answer_max)
    }

    async fn lease(&self, freshness: Freshness) -> Result<Lease, MirrorDrop> {
        let endpoint = self.pick().ok_or(MirrorDrop::Unavailable)?;
        let timers = &self.worker.timers;
        if freshness == Freshness::Any
            && let Some(lease) = Lease::reuse(endpoint, timers)
        {
            return Ok(lease);
        }
        let limit = self.connect.min(self.config.timeout);
        let _turn = self.turn_to_connect(endpoint, limit).await?;
        // One may have become free meanwhile.
        let lease = Lease::acquire(endpoint, timers, limit, freshness, self.ends, None).await.map_err(|error| {
            let why = blame(&error);
            if why == MirrorDrop::Connect {
                endpoint.hold_back(Instant::now());
            }
            why
        })?;
        if !lease.reused() {
            endpoint.trust();
        }
        Ok(lease)
    }

    /// Of HTTP/2, one connection at a time is opened to an endpoint anyway.
    async fn turn_to_connect(&self, endpoint: &LocalEndpoint, limit: Duration) -> Result<Option<Place>, MirrorDrop> {
        if endpoint.endpoint.identity.protocol == UpstreamProtocol::Http2 {
            return Ok(None);
        }
        if let Some(turn) = self.connects.take(CONNECTS_MAX) {
            return Ok(Some(turn));
        }
        // Whoever waits here has a place among the copies under way, which are bounded.
        let line = self.connects.line_up(u32::MAX).ok_or(MirrorDrop::QueueTimeout)?;
        line.wait(CONNECTS_MAX, limit, &self.worker.timers).await.map(Some).ok_or(MirrorDrop::QueueTimeout)
    }

    /// The one with fewer copies of two random ones that are available.
    fn pick(&self) -> Option<&Rc<LocalEndpoint>> {
        let now = Instant::now();
        let available = || self.view.copies.iter().filter(|e| is_available(e, now) && e.has_room());
        let count = available().count() as u64;
        let random = || available().nth((self.worker.draw() % count.max(1)) as usize);
        let (first, second) = (random()?, random()?);
        Some(if second.in_flight() < first.in_flight() { second } else { first })
    }
}

/// Whether the length that a head tells is that of what follows.
fn has_body(method: &Method, status: StatusCode) -> bool {
    *method != Method::HEAD && status != StatusCode::NOT_MODIFIED
}

/// No more of the answer is read; `announced`: its length, as far as it was told.
fn too_large(capture: Option<&mut Capture>, announced: u64) -> MirrorDrop {
    if let Some(capture) = capture {
        capture.announced(announced);
    }
    MirrorDrop::AnswerTooLarge
}

/// Whose fault it is that there is no connection.
fn blame(error: &ConnectError) -> MirrorDrop {
    if error.is_exhaustion() { MirrorDrop::Exhausted } else { MirrorDrop::Connect }
}

/// Of an answer that is there, read at once.
const TURN_BYTES: usize = 64 * 1024;

/// Runs from the end of the request.
struct Clock<'a> {
    timer: Timer,
    limit: Duration,
    begun: Instant,
    body: Option<&'a CopiedBody>,
}

impl<'a> Clock<'a> {
    fn start(timer: Timer, limit: Duration, body: Option<&'a CopiedBody>) -> Self {
        timer.set(limit);
        Self { timer, limit, begun: Instant::now(), body }
    }

    /// Since the request was sent; `None` while its body comes.
    fn since_sent(&self) -> Option<Duration> {
        match self.body.map(CopiedBody::end) {
            None => Some(self.begun.elapsed()),
            Some(Ok(Some(at))) => Some(at.max(self.begun).elapsed()),
            Some(Ok(None) | Err(_)) => None,
        }
    }

    fn elapsed(&self) -> Duration {
        self.since_sent().unwrap_or_default()
    }

    /// Why the body won't be whole.
    fn fault(&self) -> Option<MirrorDrop> {
        self.body?.end().err()
    }

    /// What `future` comes to, unless the time is over or the body broken before.
    async fn within<F: Future>(&self, future: F) -> Result<F::Output, MirrorDrop> {
        let mut future = pin!(future);
        poll_fn(|cx: &mut Context<'_>| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            if let Some(Poll::Ready(Err(fault))) = self.body.map(|body| body.poll_end(cx)) {
                return Poll::Ready(Err(fault));
            }
            while self.timer.poll(cx).is_ready() {
                // While the client sends, it is the client's time, as long as it goes on.
                let silence = || self.body.map_or(Duration::ZERO, CopiedBody::silence);
                let (spent, over) = match self.since_sent() {
                    Some(since) => (since, MirrorDrop::Timeout),
                    None => (silence(), MirrorDrop::BodyTimeout),
                };
                let left = self.limit.saturating_sub(spent);
                if left.is_zero() {
                    return Poll::Ready(Err(over));
                }
                self.timer.set(left);
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use rustix::io::Errno;

    use super::*;

    #[test]
    fn what_we_have_run_out_of_is_not_the_shadows_fault() {
        let tcp = |errno: Errno| blame(&ConnectError::Tcp(io::Error::from(errno)));
        for errno in [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS, Errno::NOMEM] {
            assert_eq!(tcp(errno), MirrorDrop::Exhausted, "{errno}");
        }
        for errno in [Errno::CONNREFUSED, Errno::CONNRESET, Errno::TIMEDOUT, Errno::HOSTUNREACH] {
            assert_eq!(tcp(errno), MirrorDrop::Connect, "{errno}");
        }
        assert_eq!(blame(&ConnectError::Timeout), MirrorDrop::Connect);
    }
}
