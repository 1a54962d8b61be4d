//! Whether an endpoint is to get requests, shared by all workers: what its checks say, whether it is ejected, whether a
//! person drained it; and what its attempts came to, which is what ejections are decided by.
//!
//! Workers read one word at each pick and write, in the common case, one counter that is theirs alone. Everything is
//! decided by the thread of `health/`, which alone changes that word, but for three things: a person's drain, a roll, and
//! the claim of the one request that tries out an endpoint whose ejection is over:
//!
//! ```text
//!             ejected             its time is over        one request claims it
//!  available ---------> ejected -----------------> due --------------------------> on trial
//!      ^                   ^                                                          |
//!      |                   +----------------------- it failed ------------------------+
//!      +------------------------------------------- it went well ---------------------+
//! ```

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::analysis::Attempts;
use crate::model::grpc_blames_server;
use crate::observe::{Counter, Gauge};

/// Its checks fail.
const CHECK_FAILED: u32 = 1;
const EJECTED: u32 = 1 << 1;
/// A person wants it to get nothing.
const DRAINED: u32 = 1 << 2;
/// Available again, and its share still grows.
const RECOVERING: u32 = 1 << 3;
/// Ejected, and one request may find out whether it is well again.
const DUE: u32 = 1 << 4;
/// That request is under way.
const ON_TRIAL: u32 = 1 << 5;
const TRIAL_PASSED: u32 = 1 << 6;
const TRIAL_FAILED: u32 = 1 << 7;
/// A roll has taken it out.
const ROLLING: u32 = 1 << 8;
const UNAVAILABLE: u32 = CHECK_FAILED | EJECTED | DRAINED | ROLLING;
/// How often a trial was offered, so that each is decided by its own attempt.
const TRIAL_NUMBER: u32 = 0xffff_0000;
const TRIAL_NUMBER_ONE: u32 = 1 << 16;
const TRIAL: u32 = DUE | ON_TRIAL | TRIAL_PASSED | TRIAL_FAILED;

/// What an endpoint's share begins with after a recovery: with less, one of little traffic would hardly be asked.
const RAMP_MIN: f64 = 0.1;
/// Failures in a row that are told of an endpoint that nobody ejects.
const FAILING_FROM: u32 = 5;

/// The right to try out an ejected endpoint with one attempt, whose end alone decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrialClaim(u32);

/// How an attempt ended, as its endpoint is judged by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptEnd {
    /// Any answer that doesn't blame the server.
    Answered,
    /// 5xx, or a gRPC status that blames the server.
    BadAnswer,
    /// The connection broke before the answer's head, and nobody else's fault explains it.
    Broken,
    /// No head in time.
    TimedOut,
    /// It couldn't be connected to.
    Refused,
    /// Not in time, which may be the network's or the machine's doing.
    Unreached,
}

impl AttemptEnd {
    /// By the head of an answer.
    #[must_use]
    pub fn of(status: StatusCode, grpc: Option<&HeaderMap>) -> Self {
        // Only in an answer that is all trailers: others tell their status at their end.
        let failed = status.is_server_error() || grpc.is_some_and(grpc_blames_server);
        if failed { Self::BadAnswer } else { Self::Answered }
    }
}

/// Wakes the thread that decides about health; and the clock that all of this is told in.
#[derive(Debug)]
pub struct Alarm {
    notify: Notify,
    begun: Instant,
}

impl Default for Alarm {
    fn default() -> Self {
        Self { notify: Notify::new(), begun: Instant::now() }
    }
}

impl Alarm {
    pub fn ring(&self) {
        self.notify.notify_one();
    }

    /// Waits until somebody has rung, once for any number of times.
    pub async fn rung(&self) {
        self.notify.notified().await;
    }

    /// Since the alarm was made, the same on all threads; from 1.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

/// What one worker's attempts came to.
#[derive(Debug, Default)]
#[repr(align(128))]
struct AttemptCell {
    /// Under way, copies included.
    in_flight: Gauge,
    answered: Counter,
    failed: Counter,
}

/// Failures in a row over all workers, so that sixteen workers don't take sixteen times as many. Written by each
/// failure, by the first success after one, and by nothing else.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Streak {
    failures: AtomicU32,
    /// Of connects alone, at its end.
    refusals: AtomicU32,
    /// Of these, those that took too long.
    unreached: AtomicU32,
}

/// What people are told about an endpoint that is not available. Never touched by workers.
#[derive(Debug, Clone, Default)]
pub struct HealthNotes {
    /// Why the last check failed.
    pub check_error: Option<String>,
    pub ejected_for: Option<String>,
    pub ejected_until: Option<SystemTime>,
    pub checks: u64,
    pub checks_failed: u64,
    pub ejections: u64,
}

/// One endpoint's health. Outlives snapshots, as its endpoint does.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Health {
    flags: AtomicU32,
    /// Failures in a row at which the alarm rings; 0: never.
    streak_max: AtomicU32,
    /// Of the last recovery, by the alarm's clock.
    recovered_ms: AtomicU64,
    slow_start_ms: AtomicU64,
    alarm: Arc<Alarm>,
    /// By worker.
    cells: Box<[OnceLock<Box<AttemptCell>>]>,
    streak: Streak,
    notes: Mutex<HealthNotes>,
}

/// What an endpoint is at the moment, for people and metrics; the first that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    Up,
    /// Its last requests have all failed; it gets more for want of anybody who does better.
    Failing,
    /// Its share grows to its full size.
    Recovering,
    Drained,
    /// A roll has taken it out.
    Rolling,
    CheckFailed,
    Ejected,
    /// Ejected long enough: the next request or one under way decides.
    OnTrial,
}

impl Availability {
    /// Stable, for the API and the command line.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Failing => "failing",
            Self::Recovering => "recovering",
            Self::Drained => "drained",
            Self::Rolling => "rolling",
            Self::CheckFailed => "check failed",
            Self::Ejected => "ejected",
            Self::OnTrial => "on trial",
        }
    }
}

impl fmt::Display for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What requests need to know and do.
impl Health {
    #[must_use]
    pub fn new(workers: usize, alarm: Arc<Alarm>) -> Self {
        Self { cells: (0..workers).map(|_| OnceLock::new()).collect(), alarm, ..Self::default() }
    }

    #[must_use]
    pub fn is_available(&self) -> bool {
        self.flags() & UNAVAILABLE == 0
    }

    /// Available, and with its whole share: nothing to think about.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.flags() & (UNAVAILABLE | RECOVERING) == 0
    }

    /// The part of its share that an endpoint gets, from 0.1 to 1: it grows evenly after a recovery.
    #[must_use]
    pub fn ramp(&self) -> f64 {
        if self.flags() & RECOVERING == 0 {
            return 1.0;
        }
        let since = self.alarm.now_ms().saturating_sub(self.recovered_ms.load(Ordering::Relaxed));
        let whole = self.slow_start_ms.load(Ordering::Relaxed).max(1);
        (since as f64 / whole as f64).clamp(RAMP_MIN, 1.0)
    }

    /// A request may try out whether the endpoint is well again.
    #[must_use]
    pub fn is_due(&self) -> bool {
        is_due(self.flags())
    }

    /// The right to try it out, for whoever asks first.
    #[must_use]
    pub fn claim(&self) -> Option<TrialClaim> {
        if !self.is_due() {
            return None;
        }
        let claimed = |flags| is_due(flags).then_some(flags & !DUE | ON_TRIAL);
        let before = self.flags.fetch_update(Ordering::Relaxed, Ordering::Relaxed, claimed).ok()?;
        Some(TrialClaim(before & TRIAL_NUMBER))
    }

    /// Whether that right still holds: a trial that told nothing for too long is another one's.
    #[must_use]
    pub fn is_claimed_by(&self, claim: TrialClaim) -> bool {
        is_claimed_by(self.flags(), claim)
    }

    /// How the attempt that had claimed it ended.
    pub fn tried(&self, claim: TrialClaim, end: AttemptEnd) {
        let outcome = if end == AttemptEnd::Answered { TRIAL_PASSED } else { TRIAL_FAILED };
        let ended = |flags: u32| is_claimed_by(flags, claim).then_some(flags & !TRIAL | outcome);
        if self.flags.fetch_update(Ordering::Relaxed, Ordering::Relaxed, ended).is_ok() {
            self.alarm.ring();
        }
    }

    /// An attempt of worker `index` begins.
    pub(super) fn enters(&self, index: usize) {
        if let Some(cell) = self.cells.get(index) {
            cell.get_or_init(Box::default).in_flight.increase();
        }
    }

    /// It is under way no more, however it ended.
    pub(super) fn leaves(&self, index: usize) {
        if let Some(cell) = self.cells.get(index).and_then(OnceLock::get) {
            cell.in_flight.decrease();
        }
    }

    /// An attempt of worker `index` ended; the alarm rings if too many in a row have failed.
    pub fn ended(&self, index: usize, end: AttemptEnd) {
        let cell = self.cells.get(index).map(|cell| cell.get_or_init(Box::default));
        if end == AttemptEnd::Answered {
            cell.inspect(|cell| cell.answered.add(1));
            if self.streak.failures.load(Ordering::Relaxed) != 0 {
                self.forget_streak();
            }
            return;
        }
        cell.inspect(|cell| cell.failed.add(1));
        match end {
            AttemptEnd::Refused | AttemptEnd::Unreached => {
                self.streak.unreached.fetch_add(u32::from(end == AttemptEnd::Unreached), Ordering::Relaxed);
                self.streak.refusals.fetch_add(1, Ordering::Relaxed);
            }
            _ => self.forget_refusals(),
        }
        let before = self.streak.failures.fetch_add(1, Ordering::Relaxed);
        if before.saturating_add(1) == self.streak_max.load(Ordering::Relaxed) {
            self.alarm.ring();
        }
    }

    fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }
}

fn is_due(flags: u32) -> bool {
    // What its checks or a person say outranks a trial.
    flags & (UNAVAILABLE | DUE) == EJECTED | DUE
}

fn is_claimed_by(flags: u32, claim: TrialClaim) -> bool {
    flags & (ON_TRIAL | TRIAL_NUMBER) == ON_TRIAL | claim.0
}

/// What whoever decides needs to know and do.
impl Health {
    /// Failures in a row at which the alarm rings, where any do, and how long a recovered endpoint's share grows.
    pub fn configure(&self, streak_max: Option<u32>, slow_start: Duration) {
        self.streak_max.store(streak_max.unwrap_or(0), Ordering::Relaxed);
        self.slow_start_ms.store(u64::try_from(slow_start.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What all workers' attempts came to so far.
    #[must_use]
    pub fn attempts(&self) -> Attempts {
        let mut all = Attempts::default();
        for cell in self.cells.iter().filter_map(OnceLock::get) {
            all.answered = all.answered.wrapping_add(cell.answered.value());
            all.failed = all.failed.wrapping_add(cell.failed.value());
        }
        all
    }

    /// What all workers have under way there.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.cells.iter().filter_map(OnceLock::get).fold(0, |sum, cell| sum.wrapping_add(cell.in_flight.value()))
    }

    /// Failures in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.streak.failures.load(Ordering::Relaxed)
    }

    /// Failed connects in a row.
    #[must_use]
    pub fn refusals(&self) -> u32 {
        self.streak.refusals.load(Ordering::Relaxed)
    }

    /// Those of [`Health::refusals`] that took too long.
    #[must_use]
    pub fn unreached(&self) -> u32 {
        self.streak.unreached.load(Ordering::Relaxed)
    }

    pub fn forget_streak(&self) {
        self.streak.failures.store(0, Ordering::Relaxed);
        self.forget_refusals();
    }

    fn forget_refusals(&self) {
        self.streak.refusals.store(0, Ordering::Relaxed);
        self.streak.unreached.store(0, Ordering::Relaxed);
    }

    pub fn set_check_failed(&self, failed: bool) {
        self.set(CHECK_FAILED, failed);
        self.alarm.ring();
    }

    #[must_use]
    pub fn is_check_failed(&self) -> bool {
        self.flags() & CHECK_FAILED != 0
    }

    /// A person's wish. Whoever sets it tells the store, too: [`crate::state::Change::Availability`].
    pub fn set_drained(&self, drained: bool) {
        self.set(DRAINED, drained);
        self.alarm.ring();
    }

    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.flags() & DRAINED != 0
    }

    /// A roll has taken it out, or puts it back. Whoever sets it tells the store, too.
    pub fn set_rolling(&self, rolling: bool) {
        if !rolling {
            // Another process is there now.
            self.forget_streak();
        }
        self.set(ROLLING, rolling);
        self.alarm.ring();
    }

    #[must_use]
    pub fn is_rolling(&self) -> bool {
        self.flags() & ROLLING != 0
    }

    pub fn eject(&self) {
        self.change(|flags| flags & !TRIAL | EJECTED);
    }

    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.flags() & EJECTED != 0
    }

    /// Lets one request try it out.
    pub fn offer_trial(&self) {
        self.change(|flags| (flags & !TRIAL | DUE).wrapping_add(TRIAL_NUMBER_ONE));
    }

    /// How the trial went, once it has ended.
    #[must_use]
    pub fn trial_outcome(&self) -> Option<bool> {
        let flags = self.flags();
        (flags & (TRIAL_PASSED | TRIAL_FAILED) != 0).then_some(flags & TRIAL_PASSED != 0)
    }

    /// A request that tries it out is under way.
    #[must_use]
    pub fn is_on_trial(&self) -> bool {
        self.flags() & ON_TRIAL != 0
    }

    /// Its ejection is over.
    pub fn readmit(&self) {
        self.forget_streak();
        self.change(|flags| flags & !(TRIAL | EJECTED));
    }

    /// Its share grows from now on.
    pub fn begin_recovery(&self) {
        if self.slow_start_ms.load(Ordering::Relaxed) > 0 {
            self.recovered_ms.store(self.alarm.now_ms(), Ordering::Relaxed);
            self.set(RECOVERING, true);
        }
    }

    pub fn end_recovery(&self) {
        self.set(RECOVERING, false);
    }

    #[must_use]
    pub fn is_recovering(&self) -> bool {
        self.flags() & RECOVERING != 0
    }

    /// So many failures in a row would have it ejected, if others did better.
    fn is_failing(&self) -> bool {
        let streak_max = match self.streak_max.load(Ordering::Relaxed) {
            0 => FAILING_FROM,
            max => max,
        };
        self.failures() >= streak_max
    }

    #[must_use]
    pub fn availability(&self) -> Availability {
        let flags = self.flags();
        let holds = |bits| flags & bits != 0;
        match () {
            () if holds(DRAINED) => Availability::Drained,
            () if holds(ROLLING) => Availability::Rolling,
            () if holds(CHECK_FAILED) => Availability::CheckFailed,
            () if holds(EJECTED) && holds(TRIAL) => Availability::OnTrial,
            () if holds(EJECTED) => Availability::Ejected,
            () if self.is_failing() => Availability::Failing,
            () if holds(RECOVERING) => Availability::Recovering,
            () => Availability::Up,
        }
    }

    /// How its last requests failed, for people.
    #[must_use]
    pub fn streak_told(&self) -> String {
        match (self.failures(), self.refusals()) {
            (failures, refusals) if refusals >= failures => format!("the last {refusals} connects failed"),
            (failures, _) => format!("the last {failures} requests failed"),
        }
    }

    #[must_use]
    pub fn alarm(&self) -> &Arc<Alarm> {
        &self.alarm
    }

    /// What people are told.
    pub fn notes(&self) -> MutexGuard<'_, HealthNotes> {
        // Whole after a panic: each field is set by itself.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, bit: u32, on: bool) {
        if on {
            self.flags.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.flags.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    fn change(&self, next: impl Fn(u32) -> u32) {
        let _never_refused = self.flags.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |flags| Some(next(flags)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        let health = Health::new(2, Arc::default());
        health.configure(Some(5), Duration::from_secs(10));
        health
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_are_counted_over_all_workers_and_ring_once() {
        let health = health();
        for attempt in 0..4 {
            health.ended(attempt % 2, AttemptEnd::BadAnswer);
        }
        assert!(tokio::time::timeout(Duration::from_secs(1), health.alarm().rung()).await.is_err());
        health.ended(0, AttemptEnd::TimedOut);
        health.alarm().rung().await;
        assert_eq!((health.failures(), health.refusals()), (5, 0));
        health.ended(1, AttemptEnd::Answered);
        assert_eq!(health.failures(), 0);
        assert_eq!(health.attempts(), Attempts { answered: 1, failed: 5 });
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_those_at_the_end_of_a_row() {
        let health = health();
        for end in [AttemptEnd::Refused, AttemptEnd::Broken, AttemptEnd::Refused, AttemptEnd::Refused] {
            health.ended(0, end);
        }
        assert_eq!((health.failures(), health.refusals()), (4, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_tries_out_an_ejected_endpoint() {
        let health = health();
        assert_eq!(health.claim(), None);
        health.eject();
        assert!(health.claim().is_none() && !health.is_available());
        health.offer_trial();
        let claim = health.claim().unwrap();
        assert_eq!(health.claim(), None, "one is enough");
        health.tried(claim, AttemptEnd::Broken);
        assert_eq!(health.trial_outcome(), Some(false));
        health.eject();
        health.offer_trial();
        let claim = health.claim().unwrap();
        health.tried(claim, AttemptEnd::Answered);
        assert_eq!(health.trial_outcome(), Some(true));
        health.readmit();
        assert!(health.is_available() && health.trial_outcome().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_told_nothing_for_too_long_is_not_decided_by_its_late_end() {
        let health = health();
        health.eject();
        health.offer_trial();
        let first = health.claim().unwrap();
        health.offer_trial();
        let second = health.claim().unwrap();
        assert!(!health.is_claimed_by(first) && health.is_claimed_by(second));
        health.tried(first, AttemptEnd::TimedOut);
        assert_eq!(health.trial_outcome(), None);
        health.tried(second, AttemptEnd::Answered);
        assert_eq!(health.trial_outcome(), Some(true));
        (0..70_000).for_each(|_| health.offer_trial());
        assert!(health.is_ejected() && health.is_due(), "its number begins anew and touches nothing else");
    }

    #[tokio::test(start_paused = true)]
    async fn checks_and_people_outrank_a_trial() {
        for set in [Health::set_check_failed, Health::set_drained] {
            let health = health();
            health.eject();
            health.offer_trial();
            set(&health, true);
            assert_eq!(health.claim(), None);
            set(&health, false);
            assert!(health.claim().is_some());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_grows_evenly_after_a_recovery_and_only_then() {
        let health = health();
        assert!(health.ramp() >= 1.0, "not at the start");
        health.begin_recovery();
        assert!((health.ramp() - 0.1).abs() < 1e-9);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!((health.ramp() - 0.5).abs() < 0.01);
        tokio::time::advance(Duration::from_secs(6)).await;
        assert!(health.ramp() >= 1.0);
    }

    #[test]
    fn a_grpc_answer_that_is_all_trailers_is_judged_by_its_status() {
        let of = |status: &'static str| {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                http::HeaderValue::from_static(status),
            )]);
            AttemptEnd::of(StatusCode::OK, Some(&headers))
        };
        for (status, end) in [("0", AttemptEnd::Answered), ("5", AttemptEnd::Answered), ("14", AttemptEnd::BadAnswer)] {
            assert_eq!(of(status), end, "{status}");
        }
        assert_eq!(AttemptEnd::of(StatusCode::NOT_FOUND, None), AttemptEnd::Answered);
        assert_eq!(AttemptEnd::of(StatusCode::BAD_GATEWAY, None), AttemptEnd::BadAnswer);
    }
}
