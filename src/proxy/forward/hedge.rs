//! Asking stable, too, while a backend that is suspect is waited for: the first good answer wins, the other attempt is
//! dropped. Rare, and only for requests that are harmless.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use http::Response;
use tokio::time::Instant;

use super::attempt::{Attempt, Broken, Event, Sending, attempt};
use super::copy::RequestCopy;
use super::tries::Tries;
use super::{blamed, choose, connect};
use crate::model::AttemptFailure;
use crate::observe::{BackendMetrics, CodeClass};
use crate::proxy::exchange::Exchange;
use crate::proxy::queue;
use crate::upstream::{AnswerBody, AttemptEnd, Freshness, Lease};

/// Whose answer is passed on.
pub(super) enum Raced {
    /// The first attempt's, or its failure: the second one failed, too.
    First(Result<Response<AnswerBody>, Broken>),
    Second(Second),
}

/// The answer of the second attempt.
pub(super) struct Second {
    response: Response<AnswerBody>,
    lease: Lease,
    asked: Instant,
    /// The first one had ended before.
    first_code: Option<CodeClass>,
}

impl Second {
    /// Enters it as the request's own.
    pub(super) fn take(
        self,
        exchange: &mut Exchange,
        tries: &mut Tries,
        stable: usize,
    ) -> (Response<AnswerBody>, Lease) {
        let now = Instant::now();
        if self.first_code.is_some() {
            tries.failed(exchange);
        }
        self.lease.endpoint().observe(now - self.asked, now);
        exchange.hand_over(stable, self.first_code.unwrap_or(CodeClass::None), self.asked);
        exchange.answers(self.lease.endpoint().endpoint.identity.address);
        exchange.head_received(now);
        (self.response, self.lease)
    }
}

/// Sends the request of `copy` to the backend `stable`, too, and waits for the first good answer, or for the end of both.
pub(super) async fn race<F>(
    exchange: &Exchange,
    mut first: Pin<&mut Attempt<F>>,
    stable: usize,
    copy: Option<&RequestCopy<'_>>,
) -> Raced
where
    F: Sending,
{
    let asked = Instant::now();
    let mut second = pin!(ask(exchange, stable, copy));
    let (mut first_ended, mut second_ended) = (None, false);
    poll_fn(|cx| {
        while first_ended.is_none()
            && let Poll::Ready(event) = first.as_mut().poll_event(exchange, cx)
        {
            if let Event::Ended(ended) = event {
                if ended.as_ref().is_ok_and(|response| !is_rescued(exchange, response)) {
                    return Poll::Ready(Raced::First(ended));
                }
                first_ended = Some(ended);
            }
        }
        if !second_ended && let Poll::Ready(answered) = second.as_mut().poll(cx) {
            second_ended = true;
            if let Some((response, lease)) = answered
                && (first_ended.is_some() || !is_rescued(exchange, &response))
            {
                let first_code = first_ended.as_ref().map(code);
                return Poll::Ready(Raced::Second(Second { response, lease, asked, first_code }));
            }
        }
        match first_ended.take_if(|_| second_ended) {
            Some(ended) => Poll::Ready(Raced::First(ended)),
            None => Poll::Pending,
        }
    })
    .await
}

/// One attempt at an endpoint of `stable`; `None`: it failed.
async fn ask(
    exchange: &Exchange,
    stable: usize,
    copy: Option<&RequestCopy<'_>>,
) -> Option<(Response<AnswerBody>, Lease)> {
    let mut request = copy?.request()?;
    let in_flight = InFlight::begin(exchange, stable);
    let (endpoint, permit) = match exchange.limits_of(stable) {
        None => (choose(exchange, stable, &[]).ok()?, None),
        // Those in line have nobody else to ask.
        Some(limits) => {
            let permit = queue::enter(exchange, stable, limits, &[])?;
            (Rc::clone(permit.endpoint()), Some(permit))
        }
    };
    let mut lease = connect(exchange, stable, &endpoint, Freshness::Any, permit).await.ok()?;
    let mut attempt = pin!(attempt(exchange, &mut lease, &mut request, Instant::now(), None));
    let ended = poll_fn(|cx| attempt.as_mut().poll_event(exchange, cx)).await;
    drop(in_flight);
    match ended {
        Event::Ended(Ok(response)) => {
            lease.ended(AttemptEnd::of(response.status(), exchange.is_grpc().then_some(response.headers())));
            Some((response, lease))
        }
        Event::Ended(Err(Broken::Late(_))) => {
            lease.ended(AttemptEnd::TimedOut);
            None
        }
        // That its connection had been closed may be nobody's fault, and who asks it is about to ask it again.
        _ => None,
    }
}

/// An answer in whose place another is looked for.
fn is_rescued(exchange: &Exchange, response: &Response<AnswerBody>) -> bool {
    let rescue = exchange.service().service.config.attempts.rescue;
    let status = blamed(exchange, response);
    rescue.zip(status).is_some_and(|(rescue, status)| rescue.on.contains(AttemptFailure::Status(status)))
}

/// As what the first attempt is counted.
fn code(ended: &Result<Response<AnswerBody>, Broken>) -> CodeClass {
    ended.as_ref().map_or(CodeClass::ServerError, |response| CodeClass::of(response.status()))
}

/// Counts the second attempt while it is under way: it may be dropped at any moment.
struct InFlight {
    metrics: std::sync::Arc<BackendMetrics>,
    worker: Rc<crate::worker::Worker>,
}

impl InFlight {
    fn begin(exchange: &Exchange, backend: usize) -> Self {
        let metrics = std::sync::Arc::clone(&exchange.service().service.backends[backend].metrics);
        let worker = Rc::clone(&exchange.client().worker);
        metrics.cell(worker.index).in_flight.increase();
        Self { metrics, worker }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.metrics.cell(self.worker.index).in_flight.decrease();
    }
}
