//! One request on its way to one endpoint, until the head of its response comes.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::copy::adapt;
use crate::proxy::exchange::Exchange;
use crate::proxy::reply::Reason;
use crate::timers::Timer;
use crate::upstream::{AnswerBody, Lease, RequestBody, SendError};

/// How often is asked, at first, whether a slow attempt's backend has become suspect; with time, as often as is
/// proportionate to the time that has passed.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
const LOOK_SHARE: u32 = 8;

/// What is told of an attempt.
pub(super) enum Event {
    Ended(Result<Response<AnswerBody>, Broken>),
    /// It is slow now; told once.
    Slow,
    /// Time to look whether somebody else had better be asked, too.
    Look,
}

/// Why there is no head.
pub(super) enum Broken {
    /// None within the time allowed.
    Late(Reason),
    Connection(Box<SendError>),
}

/// What happens besides waiting.
#[derive(Debug, Clone, Copy)]
enum Watch {
    Nothing,
    /// The attempt is slow after this time.
    Slow(Duration),
    Look,
}

/// A request that has been handed to its connection.
pub(super) trait Sending: Future<Output = Result<Response<AnswerBody>, Box<SendError>>> {}

impl<F> Sending for F where F: Future<Output = Result<Response<AnswerBody>, Box<SendError>>> {}

pin_project! {
    /// See the module's text. Written out rather than an async block, which would hold what it awaits twice: this is
    /// part of every request's future.
    pub(super) struct Attempt<F> {
        #[pin]
        sending: F,
        timer: Timer,
        begun: Instant,
        limit: Duration,
        watch: Watch,
    }
}

/// Sends `request`; what [`Lease::send`] leaves of it is still there. Time runs from `begun`, or from the end of the client's body if that is later; `slow_after` that
/// time an attempt is slow.
pub(super) fn attempt(
    exchange: &Exchange,
    lease: &mut Lease,
    request: &mut Request<RequestBody>,
    begun: Instant,
    slow_after: Option<Duration>,
) -> Attempt<impl Sending + use<>> {
    adapt(request, lease);
    let service = &exchange.service().service.config;
    let per_try = service.attempts.retry.as_ref().and_then(|retry| retry.per_try);
    let limit = per_try.map_or(service.timeouts.response_header, |limit| limit.min(service.timeouts.response_header));
    let timers = &exchange.client().worker.timers;
    let timer = if slow_after.is_some() || per_try.is_some() { timers.fine_timer() } else { timers.timer() };
    timer.set(within(slow_after.unwrap_or(limit).min(limit), exchange.deadline()));
    let watch = slow_after.map_or(Watch::Nothing, Watch::Slow);
    Attempt { sending: lease.send(request), timer, begun, limit, watch }
}

impl<F> Attempt<F>
where
    F: Sending,
{
    /// What has happened since; after [`Event::Ended`] nothing may be asked any more.
    pub(super) fn poll_event(mut self: Pin<&mut Self>, exchange: &Exchange, cx: &mut Context<'_>) -> Poll<Event> {
        if let Poll::Ready(sent) = self.as_mut().project().sending.poll(cx) {
            return Poll::Ready(Event::Ended(sent.map_err(Broken::Connection)));
        }
        let this = self.project();
        while this.timer.poll(cx).is_ready() {
            let now = Instant::now();
            let (next, event) = due(*this.watch, *this.limit, *this.begun, exchange, now);
            match event {
                Some(Event::Slow) => *this.watch = Watch::Nothing,
                Some(event @ Event::Ended(_)) => return Poll::Ready(event),
                Some(Event::Look) | None => {}
            }
            this.timer.set(within(next, exchange.deadline()));
            if let Some(event) = event {
                return Poll::Ready(event);
            }
        }
        Poll::Pending
    }

    /// From now on there are [`Event::Look`]s.
    pub(super) fn look(self: Pin<&mut Self>) {
        let this = self.project();
        *this.watch = Watch::Look;
        this.timer.set(LOOK_INTERVAL);
    }

    /// No more of them.
    pub(super) fn look_no_more(self: Pin<&mut Self>) {
        *self.project().watch = Watch::Nothing;
    }
}

/// What a deadline that has passed means, and when the next one is.
fn due(watch: Watch, limit: Duration, begun: Instant, exchange: &Exchange, now: Instant) -> (Duration, Option<Event>) {
    if exchange.deadline().is_some_and(|deadline| deadline <= now) {
        return (limit, Some(Event::Ended(Err(Broken::Late(Reason::RequestTimeout)))));
    }
    // The clock starts when the client's body has been read: until then it runs anew.
    let waited = exchange.request_read_at().map_or(Duration::ZERO, |read_at| now - read_at.max(begun));
    let left = limit.saturating_sub(waited);
    if left.is_zero() {
        return (limit, Some(Event::Ended(Err(Broken::Late(Reason::ResponseTimeout)))));
    }
    match watch {
        Watch::Slow(after) if waited >= after => (left, Some(Event::Slow)),
        Watch::Slow(after) => (left.min(after.saturating_sub(waited)), None),
        Watch::Look => (left.min(LOOK_INTERVAL.max(waited / LOOK_SHARE)), Some(Event::Look)),
        Watch::Nothing => (left, None),
    }
}

/// `limit`, or what is left until `deadline`.
fn within(limit: Duration, deadline: Option<Instant>) -> Duration {
    deadline.map_or(limit, |deadline| limit.min(deadline.saturating_duration_since(Instant::now())))
}
