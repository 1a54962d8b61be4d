//! A candidate that answers nothing for a moment, or for good: at first nobody can tell.
//!
//! The comparison of slow answers takes it that each request is slow or not by itself. A process that stands still (a
//! garbage collector, a pause of its machine) makes all of them slow at once, and six slow answers within a few
//! milliseconds are one event and not six. Stable may have such moments just as often. So a verdict that rests on one
//! moment takes the candidate's requests away for a short while, which is all that users need, and only one that stands
//! still again and again is drained.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Slow answers remembered.
const MOMENTS_MAX: usize = 16;
/// Slow answers within this time are one moment.
const MOMENT_MS: u64 = 1_000;
/// How far back it matters how many are slow, and which share of all is too small to matter. A release that needs a
/// little longer for each answer has several times as many late ones, which makes it no bad one.
const RECENT_MS: u64 = 10_000;
const FEW: f64 = 0.01;
/// The first pause; each further one in a row is twice as long.
const PAUSE: Duration = Duration::from_secs(2);
/// So many standstills in a row are no moments any more.
const IN_A_ROW_MAX: u32 = 3;
/// A candidate that did well for so long after a pause, and for as long as that, begins to count anew.
const WELL_MIN: Duration = Duration::from_secs(5);

/// When the candidate's last slow answers were due.
#[derive(Debug, Default)]
pub(super) struct Moments(VecDeque<u64>);

impl Moments {
    pub(super) fn note(&mut self, unix_ms: u64) {
        if self.0.len() == MOMENTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(unix_ms);
    }

    /// So few of the `requests` within [`RECENT_MS`] are slow, as far as that is remembered, that nobody minds.
    pub(super) fn are_few(&self, requests: u64) -> bool {
        let Some(last) = self.0.back() else { return true };
        let mut recent = self.0.iter().rev().take_while(|at| last.saturating_sub(**at) < RECENT_MS);
        let (mut slow, mut first) = (0_u64, *last);
        for at in recent.by_ref() {
            (slow, first) = (slow + 1, *at);
        }
        if slow as usize == MOMENTS_MAX {
            // There may have been more.
            slow = slow * RECENT_MS / (last - first).max(1);
        }
        (slow as f64) < FEW * requests as f64
    }

    /// Most of those that are remembered belong to the last moment.
    pub(super) fn are_one(&self) -> bool {
        let Some(last) = self.0.back() else { return false };
        let within = self.0.iter().filter(|at| last.saturating_sub(**at) < MOMENT_MS).count();
        2 * within > self.0.len()
    }
}

/// The standstills of one revision.
#[derive(Debug, Default)]
pub(super) struct Standstills {
    in_a_row: u32,
    pause: Duration,
    resumed: Option<Instant>,
}

impl Standstills {
    /// It stands still: how long it gets nothing; `None`: for good.
    pub(super) fn again(&mut self, now: Instant) -> Option<Duration> {
        if self.resumed.is_some_and(|resumed| now - resumed >= self.pause.max(WELL_MIN)) {
            self.in_a_row = 0;
        }
        self.in_a_row += 1;
        if self.in_a_row >= IN_A_ROW_MAX {
            return None;
        }
        self.pause = PAUSE * (1 << (self.in_a_row - 1));
        Some(self.pause)
    }

    pub(super) fn resumed(&mut self, now: Instant) {
        self.resumed = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_answers_of_one_pause_are_one_moment_and_those_of_an_hour_are_not() {
        let moments = |each: &[u64]| {
            let mut moments = Moments::default();
            for at in each {
                moments.note(*at);
            }
            moments.are_one()
        };
        assert!(moments(&[100_000, 100_010, 100_020, 100_030, 100_040, 100_300]));
        assert!(moments(&[1_000, 100_000, 100_010, 100_020, 100_030]));
        assert!(!moments(&[1_000, 11_000, 21_000, 31_000, 41_000, 51_000]));
        assert!(!moments(&[]));
    }

    #[test]
    fn slow_answers_matter_where_they_are_a_hundredth_of_all() {
        let few = |apart_ms: u64, requests: u64| {
            let mut moments = Moments::default();
            (0..40).for_each(|n| moments.note(1_000_000 + n * apart_ms));
            moments.are_few(requests)
        };
        assert!(few(2_000, 501) && !few(2_000, 500), "five within ten seconds");
        assert!(few(100, 11_000) && !few(100, 10_000), "more than are remembered");
        assert!(!few(60_000, 50) && !few(60_000, 0), "a quiet service");
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_double_until_the_third_in_a_row_is_for_good() {
        let (mut standstills, now) = (Standstills::default(), Instant::now());
        assert_eq!(standstills.again(now), Some(Duration::from_secs(2)));
        standstills.resumed(now);
        assert_eq!(standstills.again(now + Duration::from_secs(1)), Some(Duration::from_secs(4)));
        standstills.resumed(now);
        assert_eq!(standstills.again(now + Duration::from_secs(1)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_now_and_then_is_never_for_good() {
        let (mut standstills, mut now) = (Standstills::default(), Instant::now());
        for _ in 0..20 {
            assert_eq!(standstills.again(now), Some(Duration::from_secs(2)));
            standstills.resumed(now + Duration::from_secs(2));
            now += Duration::from_secs(10);
        }
    }
}
