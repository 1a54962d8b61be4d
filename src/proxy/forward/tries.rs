//! Whether a request that failed is tried again, and where. See `docs/retries.md`.

use std::rc::Rc;
use std::time::Duration;

use http::{HeaderName, Method, Request};
use tokio::time::Instant;

use super::Need;
use super::copy::{Kept, RequestCopy};
use crate::config::AttemptsConfig;
use crate::model::{AttemptFailure, FailureKind};
use crate::observe::CodeClass;
use crate::proxy::exchange::Exchange;
use crate::upstream::{AttemptEnd, Freshness, Lease, LocalEndpoint, RequestBody, has_other};

/// Connections that may turn out closed, or refuse a request unseen, before that is a failure.
const REPLAYS_MAX: u32 = 2;
/// The most that is waited before the first retry; it doubles with each one, and what is waited is drawn from all of it,
/// so that requests that failed together don't come back together.
const BACKOFF: Duration = Duration::from_millis(25);
const BACKOFF_MAX: Duration = Duration::from_millis(250);

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// To do it twice is to do it once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeatable {
    Yes,
    /// So its client says; and the service lets stable act on it.
    ByStable,
    No,
}

/// Whether a slow attempt gets another one at its side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hedge {
    /// By this backend, now.
    By(usize),
    NotYet,
    Never,
}

/// The attempts that one request has had.
#[derive(Debug)]
pub(super) struct Tries {
    /// Endpoints of the backend that failed this request.
    pub(super) tried: Vec<Rc<LocalEndpoint>>,
    pub(super) freshness: Freshness,
    /// Known once there is a connection to send it on.
    repeatable: Repeatable,
    is_plain: bool,
    /// The request at hand has no form yet that one protocol alone takes.
    pub(super) fits_all: bool,
    /// An attempt has failed, so that the next is none of the first.
    has_failed: bool,
    replays: u32,
    /// Where the last of them broke before it was sent again.
    broke_at: Option<Rc<LocalEndpoint>>,
    /// Endpoints of the backend that were asked.
    attempts: u32,
}

impl Tries {
    pub(super) fn new(need: &Need) -> Self {
        Self {
            tried: Vec::new(),
            freshness: Freshness::Any,
            repeatable: Repeatable::No,
            is_plain: matches!(need, Need::Nothing),
            fits_all: matches!(need, Need::Nothing),
            has_failed: false,
            replays: 0,
            broke_at: None,
            attempts: 1,
        }
    }

    /// Nothing has gone wrong yet but connections that were closed already.
    pub(super) fn is_first(&self) -> bool {
        !self.has_failed
    }

    pub(super) fn has_replayed(&self) -> bool {
        self.replays > 0
    }

    /// Keeps the request's body while it is sent, if that and its head could be of use; `None` where they can't.
    pub(super) fn keep(
        &mut self,
        exchange: &Exchange,
        request: &mut Request<RequestBody>,
        lease: &Lease,
    ) -> Option<Kept> {
        let config = &exchange.service().service.config.attempts;
        self.repeatable = repeatable(config, request);
        let may_fail_unseen = lease.reused() || lease.is_http2();
        let is_repeatable = self.repeatable == Repeatable::Yes;
        let is_of_use = (may_fail_unseen && request.body().is_empty() && (is_repeatable || lease.is_http2()))
            || (is_repeatable && self.may_retry(exchange))
            || (self.repeatable != Repeatable::No && self.fallback(exchange).is_some());
        if is_of_use { Kept::of(request.body_mut(), config.replay_buffer) } else { None }
    }

    /// Another endpoint of the backend could be asked after this one.
    fn may_retry(&self, exchange: &Exchange) -> bool {
        let endpoints = &exchange.backend().endpoints;
        endpoints.len() > self.tried.len() + 1
            && !exchange.is_rescued()
            && exchange.service().service.config.attempts.retry.is_some_and(|retry| self.attempts < retry.attempts)
    }

    /// Stable, where it may answer in the backend's place.
    fn fallback(&self, exchange: &Exchange) -> Option<usize> {
        let stable = exchange.fallback()?;
        // A request to upgrade has the form of its backend's protocol, and so has one that was about to be sent.
        ((self.is_plain && self.fits_all) || exchange.protocol_of(stable) == exchange.protocol()).then_some(stable)
    }

    /// Whether a request is sent again whose connection turned out closed, or which wasn't looked at: nothing has
    /// failed then.
    pub(super) fn replay(
        &mut self,
        exchange: &Exchange,
        endpoint: &Rc<LocalEndpoint>,
        is_unseen: bool,
        is_closed: bool,
    ) -> bool {
        if self.replays >= REPLAYS_MAX || !(is_unseen || (is_closed && self.repeatable == Repeatable::Yes)) {
            return false;
        }
        self.replays += 1;
        self.broke_at = (!is_unseen).then(|| Rc::clone(endpoint));
        self.freshness = Freshness::New;
        if let Some(cell) = exchange.cell() {
            cell.replays.add(1);
        }
        true
    }

    /// An attempt has broken. Then it wasn't age that broke the one before there, either.
    pub(super) fn broke(&mut self, lease: &mut Lease) {
        let twice = self.broke_at.take().is_some_and(|before| Rc::ptr_eq(&before, lease.endpoint()));
        for _ in 0..=u32::from(twice) {
            lease.ended(AttemptEnd::Broken);
        }
    }

    /// An attempt has failed, and it wasn't the client's fault.
    pub(super) fn failed(&mut self, exchange: &mut Exchange) {
        if !self.has_failed {
            self.has_failed = true;
            exchange.first_attempt_failed(FailureKind::Server);
        }
    }

    /// How long to wait before another attempt, and by whom it is, after that at `endpoint` failed; `None`: the failure
    /// is passed on. `is_unseen`: the endpoint can't have done anything.
    pub(super) fn next(
        &mut self,
        exchange: &mut Exchange,
        endpoint: &Rc<LocalEndpoint>,
        failure: AttemptFailure,
        is_unseen: bool,
    ) -> Option<Duration> {
        self.tried.push(Rc::clone(endpoint));
        let now = Instant::now();
        if exchange.deadline().is_some_and(|deadline| deadline <= now) {
            return None;
        }
        let config = exchange.service().service.config.attempts;
        let stable = self.stable(exchange, &config, failure, is_unseen);
        let is_connect = failure == AttemptFailure::Connect;
        if (is_connect || stable.is_none()) && self.another(exchange, &config, failure, is_unseen) {
            // Nothing was sent that could be too much for anybody.
            if !is_connect && !spend(exchange, now) {
                return None;
            }
            exchange.first_attempt_over();
            exchange.cell().inspect(|cell| cell.retries.add(1));
            self.freshness = Freshness::Any;
            self.attempts += 1;
            return Some(if is_connect { Duration::ZERO } else { self.backoff(exchange) });
        }
        let stable = stable.filter(|_| spend(exchange, now))?;
        let code = match failure {
            AttemptFailure::Status(status) => CodeClass::of(status),
            _ => CodeClass::ServerError,
        };
        exchange.hand_over(stable, code, now);
        self.tried.clear();
        (self.freshness, self.attempts, self.replays) = (Freshness::Any, 1, 0);
        Some(Duration::ZERO)
    }

    /// Stable, where it may and can answer after this failure.
    fn stable(
        &self,
        exchange: &Exchange,
        config: &AttemptsConfig,
        failure: AttemptFailure,
        is_unseen: bool,
    ) -> Option<usize> {
        let rescue = config.rescue.filter(|rescue| rescue.on.contains(failure))?;
        let may = is_unseen
            || self.repeatable == Repeatable::Yes
            || (rescue.idempotency_key && self.repeatable == Repeatable::ByStable);
        let stable = self.fallback(exchange).filter(|_| may)?;
        has_other(&exchange.backend_of(stable).endpoints, &[], false).then_some(stable)
    }

    /// Whether another endpoint of the same backend may and can answer after this failure.
    fn another(&self, exchange: &Exchange, config: &AttemptsConfig, failure: AttemptFailure, is_unseen: bool) -> bool {
        let is_connect = failure == AttemptFailure::Connect;
        let endpoints = &exchange.backend().endpoints;
        config.retry.is_some_and(|retry| retry.on.contains(failure) && self.attempts < retry.attempts)
            && (is_unseen || self.repeatable == Repeatable::Yes)
            // What stable answers in another's place has been tried enough, if it has been sent.
            && (is_connect || !exchange.is_rescued())
            && has_other(endpoints, &self.tried, is_connect)
    }

    fn backoff(&self, exchange: &Exchange) -> Duration {
        let doublings = self.attempts.saturating_sub(2).min(8);
        let most = (BACKOFF * (1 << doublings)).min(BACKOFF_MAX);
        most.mul_f64(exchange.client().worker.draw() as f64 / u64::MAX as f64)
    }

    /// Whether stable is asked, too, while the backend is waited for: once there is evidence against that.
    pub(super) fn hedge(&self, exchange: &mut Exchange) -> Hedge {
        if !exchange.is_suspect() || !exchange.request_read() {
            return Hedge::NotYet;
        }
        let stable = self.fallback(exchange);
        let stable = stable.filter(|stable| has_other(&exchange.backend_of(*stable).endpoints, &[], false));
        let Some(stable) = stable.filter(|_| spend(exchange, Instant::now())) else { return Hedge::Never };
        exchange.hedges();
        Hedge::By(stable)
    }

    /// Whether it may come to a hedge.
    pub(super) fn may_hedge(&self, exchange: &Exchange, copy: Option<&RequestCopy<'_>>) -> bool {
        self.is_plain && copy.is_some_and(RequestCopy::is_safe) && self.fallback(exchange).is_some()
    }
}

fn repeatable(config: &AttemptsConfig, request: &Request<RequestBody>) -> Repeatable {
    if config.idempotent || request.method().is_idempotent() {
        return Repeatable::Yes;
    }
    let by_key = config.rescue.is_some_and(|rescue| rescue.idempotency_key) && *request.method() != Method::CONNECT;
    if by_key && request.headers().contains_key(IDEMPOTENCY_KEY) { Repeatable::ByStable } else { Repeatable::No }
}

/// Takes one from what the service may spend on more attempts.
fn spend(exchange: &Exchange, now: Instant) -> bool {
    let may = exchange.client().worker.spend(&exchange.service().service, now);
    if !may && let Some(cell) = exchange.cell() {
        cell.budget_exhausted.add(1);
    }
    may
}
