//! One worker's side of an endpoint: its load as this worker sees it, and the connections this worker holds.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

use super::pool::{IdleStack, SharedConnection};
use super::{AttemptEnd, ConnectError, Endpoint, TrialClaim};

/// The time constant with which an old latency is forgotten.
const DECAY: Duration = Duration::from_secs(10);
/// What an endpoint that has answered nothing yet, but has been asked, is taken to need.
const LATENCY_INITIAL: Duration = Duration::from_millis(10);
/// How long an endpoint that can't be connected to is asked last, at first and at most.
const HOLD_BACK_MIN: Duration = Duration::from_secs(1);
const HOLD_BACK_MAX: Duration = Duration::from_secs(8);
/// Endpoints whose latencies are within this factor, or all below [`LATENCY_FLOOR`], are equally good: a preference
/// for the one that happened to be a little faster would leave the other without requests.
const LATENCY_NOISE: f64 = 2.0;
/// What differs below this is the machine's noise, not the endpoint's load.
const LATENCY_FLOOR: Duration = Duration::from_millis(1);

/// A worker's view of one endpoint. Lives as long as a snapshot names the endpoint or a request uses it.
#[derive(Debug)]
pub struct LocalEndpoint {
    pub endpoint: Arc<Endpoint>,
    /// The worker's index.
    worker: usize,
    /// For the next attempt that gets here: it tries out the endpoint, whose ejection is over.
    trial: Cell<Option<TrialClaim>>,
    in_flight: Cell<u32>,
    latency: Cell<Duration>,
    observed: Cell<Option<Instant>>,
    /// Until when, and for how long, since the last connect failed.
    held_back: Cell<Option<(Instant, Duration)>>,
    /// Nobody has listened there since.
    refused_since: Cell<Option<Instant>>,
    /// HTTP/1: idle connections.
    pub(super) idle: RefCell<IdleStack>,
    /// HTTP/2: connections, each shared by many requests.
    pub(super) shared: RefCell<Vec<Rc<SharedConnection>>>,
    /// HTTP/2: one connect at a time, the others wait for it.
    pub(super) connecting: Cell<bool>,
    pub(super) connected: Notify,
}

impl LocalEndpoint {
    #[must_use]
    pub fn new(endpoint: Arc<Endpoint>, worker: usize) -> Self {
        let pool = endpoint.identity.pool;
        Self {
            endpoint,
            worker,
            trial: Cell::new(None),
            in_flight: Cell::new(0),
            latency: Cell::new(Duration::ZERO),
            observed: Cell::new(None),
            held_back: Cell::new(None),
            refused_since: Cell::new(None),
            idle: RefCell::new(IdleStack::new(pool)),
            shared: RefCell::default(),
            connecting: Cell::new(false),
            connected: Notify::new(),
        }
    }

    /// Requests this worker has under way there.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// Whether the request that asks is to try out the endpoint, whose ejection is over: it is, if it gets here.
    #[must_use]
    pub fn claim(&self) -> bool {
        let claim = self.endpoint.health.claim();
        if claim.is_some() {
            self.trial.set(claim);
        }
        claim.is_some()
    }

    /// Whether the attempt that asks is to be the one that tries it out.
    pub(super) fn takes_trial(&self) -> bool {
        let claimed = self.trial.get().filter(|claim| self.endpoint.health.is_claimed_by(*claim));
        let claim = claimed.or_else(|| self.endpoint.health.claim());
        self.trial.set(claim);
        claim.is_some()
    }

    /// An attempt gets here; whether it tries out the endpoint.
    #[must_use]
    pub(crate) fn begin_trial(&self) -> Option<TrialClaim> {
        self.trial.take()
    }

    /// The attempt that tried it out came to nothing and is made again.
    pub(crate) fn put_back(&self, claim: TrialClaim) {
        self.trial.set(Some(claim));
    }

    /// Takes note of how an attempt ended. `trial`: what it had from `begin_trial`.
    pub fn ended(&self, end: AttemptEnd, trial: Option<TrialClaim>) {
        let health = &self.endpoint.health;
        health.ended(self.worker, end);
        if let Some(claim) = trial {
            health.tried(claim, end);
        }
    }

    pub(super) fn begin(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
        self.endpoint.health.enters(self.worker);
    }

    pub(super) fn end(&self) {
        self.in_flight.set(self.in_flight.get() - 1);
        self.endpoint.health.leaves(self.worker);
    }

    /// Whether one more request is better off here than there: what it would cost is latency times the requests
    /// it would share with.
    #[must_use]
    pub fn is_better_than(&self, other: &Self, now: Instant) -> bool {
        let (here, there) = (self.expected_latency_s(now), other.expected_latency_s(now));
        let (requests, other_requests) = (self.in_flight.get(), other.in_flight.get());
        if requests == other_requests {
            return here * LATENCY_NOISE < there;
        }
        here * f64::from(requests + 1) < there * f64::from(other_requests + 1)
    }

    /// In seconds; never below the floor.
    fn expected_latency_s(&self, now: Instant) -> f64 {
        let expected = match self.observed.get() {
            // An endpoint nobody dares to ask is forgotten to be slow, and asked again.
            Some(at) => {
                let forget = (-(now - at).as_secs_f64() / DECAY.as_secs_f64()).exp();
                self.latency.get().as_secs_f64() * forget
            }
            // A new endpoint is asked at once, but not by everybody at once.
            None if self.in_flight.get() == 0 => 0.0,
            None => LATENCY_INITIAL.as_secs_f64(),
        };
        expected.max(LATENCY_FLOOR.as_secs_f64())
    }

    /// A connection couldn't be opened: other endpoints are asked first for a second, and twice as long each time it
    /// happens again. Says so once.
    pub fn refused(&self, now: Instant, reason: &ConnectError, trial: Option<TrialClaim>) {
        self.ended(reason.end(), trial);
        if self.held_back.get().is_none() {
            let identity = &self.endpoint.identity;
            let (service, backend) = (&identity.service, &identity.backend);
            warn!(%service, %backend, endpoint = %self.endpoint.display(), %reason, "an endpoint can't be connected to");
        }
        self.hold_back(now);
    }

    /// It is asked last for a second, and twice as long each time it happens again.
    pub fn hold_back(&self, now: Instant) {
        let before = self.held_back.get().map_or(HOLD_BACK_MIN / 2, |(_, time)| time);
        let time = (before * 2).min(HOLD_BACK_MAX);
        self.held_back.set(Some((now + time, time)));
    }

    /// It takes connections again.
    pub fn trust(&self) {
        self.held_back.set(None);
    }

    /// Nobody listens there.
    pub fn nobody_listens(&self, now: Instant) {
        self.refused_since.set(self.refused_since.get().or(Some(now)));
    }

    /// Since when nobody listens there, as far as is known.
    #[must_use]
    pub fn refused_since(&self) -> Option<Instant> {
        self.refused_since.get()
    }

    /// A connection was opened.
    pub fn accepted(&self) {
        self.refused_since.set(None);
        if self.held_back.take().is_some() {
            let identity = &self.endpoint.identity;
            let (service, backend) = (&identity.service, &identity.backend);
            info!(%service, %backend, endpoint = %self.endpoint.display(), "an endpoint takes connections again");
        }
    }

    /// Whether other endpoints are to be asked first.
    #[must_use]
    pub fn is_held_back(&self, now: Instant) -> bool {
        self.held_back.get().is_some_and(|(until, _)| now < until)
    }

    /// Whether its limit allows another request.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.endpoint.limit.has_room()
    }

    /// Takes note of an answer's latency: a slower one counts at once, a faster one gradually (peak EWMA, as in
    /// Finagle and linkerd).
    pub fn observe(&self, latency: Duration, now: Instant) {
        let since = self.observed.replace(Some(now)).map_or(Duration::MAX, |at| now - at);
        let known = self.latency.get();
        let next = if latency >= known {
            latency
        } else {
            let keep = (-since.as_secs_f64() / DECAY.as_secs_f64()).exp();
            latency + known.saturating_sub(latency).mul_f64(keep)
        };
        self.latency.set(next);
    }

    /// Connections are kept here, idle or shared.
    #[must_use]
    pub fn has_connections(&self) -> bool {
        !self.idle.borrow().is_empty() || !self.shared.borrow().is_empty()
    }

    /// Closes connections that no request uses.
    pub fn let_go(&self) {
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().retain(|connection| connection.is_used());
    }

    /// Closes connections that have idled too long, as of `now_ms`, and all idle ones of a retired endpoint.
    pub fn sweep(&self, now_ms: u64) {
        if self.endpoint.is_retired() {
            self.let_go();
        }
        self.idle.borrow_mut().expire(now_ms);
        self.shared.borrow_mut().retain(|connection| !connection.expired(now_ms));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::{PoolConfig, Scheme, UpstreamProtocol};
    use crate::upstream::{EndpointIdentity, Health};

    pub(in super::super) fn endpoint(id: u64) -> Rc<LocalEndpoint> {
        let identity = EndpointIdentity {
            service: "shop".parse().unwrap(),
            backend: "blue".parse().unwrap(),
            scheme: Scheme::Http,
            host: "127.0.0.1".into(),
            address: ([127, 0, 0, 1], 9000).into(),
            authority: http::HeaderValue::from_static("127.0.0.1:9000"),
            protocol: UpstreamProtocol::Http1,
            proxy_protocol: None,
            tls_fingerprint: None,
            pool: PoolConfig { idle_max: 8, idle_timeout: Duration::from_secs(4) }.into(),
        };
        let health = Health::new(1, Arc::default());
        Rc::new(LocalEndpoint::new(Arc::new(Endpoint::new(id, identity, None, health, Arc::default())), 0))
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_answer_counts_at_once_and_is_forgotten_slowly() {
        let endpoint = endpoint(1);
        let start = Instant::now();
        endpoint.observe(Duration::from_millis(1), start);
        endpoint.observe(Duration::from_millis(500), start);
        assert!(endpoint.expected_latency_s(start) > 0.49);
        let later = start + Duration::from_secs(1);
        endpoint.observe(Duration::from_millis(1), later);
        assert!(endpoint.expected_latency_s(later) > 0.4, "one fast answer doesn't clear a slow endpoint");
        assert!(endpoint.expected_latency_s(later + Duration::from_secs(60)) < 0.01, "a minute of silence does");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_endpoint_is_asked_at_once_but_not_by_everybody() {
        let (old, new) = (endpoint(1), endpoint(2));
        let now = Instant::now();
        old.observe(Duration::from_millis(5), now);
        assert!(new.is_better_than(&old, now));
        new.begin();
        assert!(old.is_better_than(&new, now));
    }

    #[tokio::test(start_paused = true)]
    async fn a_little_faster_is_not_better() {
        let (one, other) = (endpoint(1), endpoint(2));
        let now = Instant::now();
        for (fast_us, slow_us) in [(50, 900), (300, 1_500), (20_000, 35_000)] {
            one.observe(Duration::from_micros(fast_us), now);
            other.observe(Duration::from_micros(slow_us), now);
            assert!(!one.is_better_than(&other, now) && !other.is_better_than(&one, now), "{fast_us} {slow_us}");
        }
        other.begin();
        assert!(one.is_better_than(&other, now));
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_attempt_that_tries_out_an_endpoint_decides_about_it() {
        let endpoint = endpoint(1);
        let health = &endpoint.endpoint.health;
        let sent_before = endpoint.begin_trial();
        health.eject();
        health.offer_trial();
        assert!(endpoint.claim());
        let trial = endpoint.begin_trial();
        endpoint.ended(AttemptEnd::TimedOut, sent_before);
        assert_eq!(health.trial_outcome(), None);
        endpoint.ended(AttemptEnd::Answered, endpoint.begin_trial());
        assert_eq!(health.trial_outcome(), None);
        endpoint.ended(AttemptEnd::Broken, trial);
        assert_eq!(health.trial_outcome(), Some(false));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_claimed_a_trial_and_never_got_there_has_no_claim_once_it_is_offered_again() {
        let endpoint = endpoint(1);
        let health = &endpoint.endpoint.health;
        health.eject();
        health.offer_trial();
        assert!(endpoint.claim() && endpoint.takes_trial());
        health.offer_trial();
        let elsewhere = health.claim().unwrap();
        assert!(!endpoint.takes_trial());
        assert_eq!(endpoint.begin_trial(), None);
        health.tried(elsewhere, AttemptEnd::Answered);
        assert_eq!(health.trial_outcome(), Some(true));
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_refuses_again_and_again_is_held_back_longer_until_it_accepts() {
        let endpoint = endpoint(1);
        let now = Instant::now();
        for seconds in [1, 2, 4, 8, 8] {
            endpoint.refused(now, &ConnectError::Timeout, None);
            let until = now + Duration::from_secs(seconds);
            assert!(endpoint.is_held_back(until - Duration::from_millis(1)) && !endpoint.is_held_back(until));
        }
        endpoint.accepted();
        assert!(!endpoint.is_held_back(now));
        endpoint.refused(now, &ConnectError::Timeout, None);
        assert!(!endpoint.is_held_back(now + Duration::from_secs(1)));
    }
}
