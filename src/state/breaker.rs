//! Whether copies go to a shadow at all. One that breaks every copy costs a connection for each, and some cost as much
//! reading as may be read: after so many in a row only probes go there, one after the other and ever more rarely, until
//! one ends well.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Copies in a row that must break. More than comparing needs to find that a shadow fails (`shadow::Judge`), and so many
/// that one which answers every other request has as good as never that many.
pub const BROKEN_MAX: u32 = 32;
/// How long nothing goes there, at first and at most; really between half of it and all, by chance, so that several
/// processes don't probe at once. And for how long a probe is waited for before another goes: it may be a stream.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(4);

/// See the module's text. Shared by all workers; where copies end well, they only read it.
#[derive(Debug)]
pub struct Breaker {
    origin: Instant,
    /// Copies in a row that broke.
    broken: AtomicU32,
    /// In a row; none: copies go there.
    pauses: AtomicU32,
    /// Until when nothing goes there, in milliseconds since `origin`: the end of the pause, or of the time that a probe
    /// has.
    until_ms: AtomicU64,
}

/// How a copy ended that says something about its shadow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With an answer, whatever it says.
    Well,
    /// With half of one, none, no HTTP, or more than is read.
    Broken,
    /// With no connection, or nothing in time. No reason to hold copies back, since both have bounds of their own, but
    /// none to go on, either.
    Unanswered,
}

/// What the end of a copy changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    HeldBack,
    LetGo,
}

/// The leave to send one copy. Dropped without a word about how that ended, it says nothing.
#[derive(Debug)]
pub struct Pass<'a> {
    breaker: &'a Breaker,
    /// Of a probe: the end of its time.
    probe: Option<u64>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            broken: AtomicU32::default(),
            pauses: AtomicU32::default(),
            until_ms: AtomicU64::default(),
        }
    }
}

impl Breaker {
    /// No copies go there but probes.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.pauses.load(Ordering::Relaxed) > 0
    }

    /// Whether a copy would be let through now.
    #[must_use]
    pub fn lets_through(&self, now: Instant) -> bool {
        !self.is_open() || self.millis(now) >= self.until_ms.load(Ordering::Relaxed)
    }

    /// Asked for right before a copy is sent.
    #[must_use]
    pub fn pass(&self, now: Instant) -> Option<Pass<'_>> {
        if !self.is_open() {
            return Some(Pass { breaker: self, probe: None });
        }
        let (until, probe_until) = (self.until_ms.load(Ordering::Relaxed), self.millis(now + PAUSE_MAX));
        let is_free = self.millis(now) >= until && self.replace_until(until, probe_until);
        is_free.then_some(Pass { breaker: self, probe: Some(probe_until) })
    }

    /// Unless somebody else has done so.
    fn replace_until(&self, known: u64, until_ms: u64) -> bool {
        self.until_ms.compare_exchange(known, until_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.origin).as_millis()).unwrap_or(u64::MAX)
    }

    /// `draw`: a number uniform over all `u64`.
    fn pause(&self, number: u32, now: Instant, draw: u64) {
        let longest = PAUSE_MIN.saturating_mul(1 << number.saturating_sub(1).min(16)).min(PAUSE_MAX);
        let pause = longest.mul_f64(0.5 + 0.5 * (draw as f64 / u64::MAX as f64));
        self.until_ms.store(self.millis(now + pause), Ordering::Relaxed);
    }
}

impl Pass<'_> {
    /// The copy has ended. `draw`: a number uniform over all `u64`.
    pub fn ended(mut self, how: Ending, now: Instant, draw: u64) -> Option<Turn> {
        let (breaker, probe) = (self.breaker, self.probe.take());
        if how == Ending::Well {
            if breaker.broken.load(Ordering::Relaxed) > 0 {
                breaker.broken.store(0, Ordering::Relaxed);
            }
            return (breaker.is_open() && breaker.pauses.swap(0, Ordering::Relaxed) > 0).then_some(Turn::LetGo);
        }
        if probe.is_some() {
            let pauses = breaker.pauses.load(Ordering::Relaxed).saturating_add(1);
            breaker.pause(pauses, now, draw);
            // Unless one that was sent before has ended well.
            let _ =
                breaker.pauses.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now > 0).then_some(pauses));
            return None;
        }
        if how == Ending::Unanswered || breaker.broken.fetch_add(1, Ordering::Relaxed) + 1 < BROKEN_MAX {
            return None;
        }
        if breaker.is_open() {
            return None;
        }
        breaker.pause(1, now, draw);
        let opened = breaker.pauses.compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed);
        opened.is_ok().then_some(Turn::HeldBack)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if let Some(until) = self.probe {
            self.breaker.replace_until(until, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    const LONGEST: u64 = u64::MAX;

    fn ends(breaker: &Breaker, how: Ending, now: Instant) -> Option<Turn> {
        breaker.pass(now).expect("it may be sent").ended(how, now, LONGEST)
    }

    /// One that holds copies back since `now`.
    fn open(now: Instant) -> Breaker {
        let breaker = Breaker::default();
        for _ in 1..BROKEN_MAX {
            assert_eq!(ends(&breaker, Ending::Broken, now), None);
        }
        assert_eq!(ends(&breaker, Ending::Broken, now), Some(Turn::HeldBack));
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn copies_are_held_back_after_so_many_in_a_row_that_broke_and_go_on_after_one_that_ended_well() {
        let mut now = Instant::now();
        let breaker = open(now);
        assert!(breaker.is_open() && !breaker.lets_through(now) && breaker.pass(now).is_none());
        now += PAUSE_MIN;
        assert!(breaker.lets_through(now));
        assert_eq!(ends(&breaker, Ending::Well, now), Some(Turn::LetGo));
        // It takes as many again.
        for _ in 1..BROKEN_MAX {
            assert_eq!(ends(&breaker, Ending::Broken, now), None);
        }
        assert_eq!(ends(&breaker, Ending::Well, now), None);
        assert!(!breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn probes_go_one_at_a_time_ever_more_rarely_and_never_less_than_every_few_seconds() {
        let mut now = Instant::now();
        let breaker = open(now);
        for pause in [PAUSE_MIN, PAUSE_MIN * 2, PAUSE_MIN * 4, PAUSE_MAX, PAUSE_MAX, PAUSE_MAX] {
            assert!(breaker.pass(now + pause - Duration::from_millis(1)).is_none(), "{pause:?}");
            now += pause;
            let probe = breaker.pass(now).expect("the pause is over");
            assert!(!breaker.lets_through(now) && breaker.pass(now).is_none(), "one is under way");
            // A probe that is late or isn't let in proves nothing, either.
            let how = if pause == PAUSE_MIN { Ending::Unanswered } else { Ending::Broken };
            assert_eq!(probe.ended(how, now, LONGEST), None);
        }
        let mut draws = StdRng::seed_from_u64(7);
        for _ in 0..1_000 {
            now += PAUSE_MAX;
            breaker.pass(now).expect("the pause is over").ended(Ending::Broken, now, draws.next_u64());
            assert!(breaker.pass(now + PAUSE_MAX / 2 - Duration::from_millis(2)).is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_comes_to_nothing_leaves_its_turn_to_the_next() {
        let now = Instant::now() + PAUSE_MIN;
        let breaker = open(Instant::now());
        drop(breaker.pass(now).expect("the pause is over"));
        assert_eq!(ends(&breaker, Ending::Well, now), Some(Turn::LetGo));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_lasts_is_followed_by_another() {
        let mut now = Instant::now() + PAUSE_MIN;
        let breaker = open(Instant::now());
        let lasting = breaker.pass(now).expect("the pause is over");
        assert!(!breaker.lets_through(now + PAUSE_MAX / 2));
        now += PAUSE_MAX;
        let next = breaker.pass(now).expect("the first has had its time");
        // Which takes nothing from those after it.
        drop(lasting);
        assert!(!breaker.lets_through(now));
        assert_eq!(next.ended(Ending::Well, now, LONGEST), Some(Turn::LetGo));
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_that_was_sent_before_and_ends_well_lets_others_go() {
        let now = Instant::now();
        let breaker = Breaker::default();
        let (well, late) = (breaker.pass(now).expect("nothing broke"), breaker.pass(now).expect("nothing broke"));
        for _ in 0..BROKEN_MAX {
            ends(&breaker, Ending::Broken, now);
        }
        // What was under way holds nobody back any longer.
        assert_eq!(late.ended(Ending::Broken, now, LONGEST), None);
        assert_eq!(well.ended(Ending::Well, now, LONGEST), Some(Turn::LetGo));
        assert!(breaker.pass(now).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_shadow_that_fails_some_requests_or_is_late_is_never_held_back() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        let mut draws = StdRng::seed_from_u64(42);
        for _ in 0..100_000 {
            let how = if draws.next_u64() % 10 < 3 { Ending::Broken } else { Ending::Well };
            assert_eq!(ends(&breaker, how, now), None);
        }
        for _ in 0..1_000 {
            assert_eq!(ends(&breaker, Ending::Unanswered, now), None);
        }
    }
}
