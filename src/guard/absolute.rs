//! A backend that has nothing to be compared with: after a flip it takes everything, or stable takes too little. Then its
//! failures count by themselves, against what stable was like when it last took requests.

use std::collections::VecDeque;

use crate::analysis::ProportionBound;

/// Looks, a second each, that a window has.
const WINDOW_LOOKS: usize = 10;
/// Half of at least so many requests failed: nobody needs statistics for that.
const REQUESTS_MIN: u64 = 20;
const SHARE_MAX: f64 = 0.5;
/// Fewer requests of stable within a window are nothing to compare with.
const STABLE_REQUESTS_MIN: u64 = 20;
/// A stable that fails this often isn't healthy: what fails elsewhere may well fail there.
const STABLE_SHARE_MAX: f64 = 0.05;
/// How much more often than stable did before: ten times, and five in a hundred.
const FACTOR: f64 = 10.0;
const MARGIN: f64 = 0.05;
/// The bound begins anew after so many looks, each time at this level: about one false alarm in two years of minutes.
const BLOCK_LOOKS: u32 = 60;
const BLOCK_ALPHA: f64 = 1e-6;

/// Requests and server failures of one backend since its counters began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) requests: u64,
    pub(super) failures: u64,
}

impl Tally {
    fn since(self, earlier: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            failures: self.failures.saturating_sub(earlier.failures),
        }
    }

    pub(super) fn share(self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.failures as f64 / self.requests as f64 }
    }
}

/// A sliding window over one backend.
#[derive(Debug, Default)]
pub(super) struct Window {
    looks: VecDeque<Tally>,
    block: Tally,
    block_looks: u32,
}

impl Window {
    /// Takes note of the counters; call it each second.
    pub(super) fn look(&mut self, now: Tally) {
        if self.looks.len() > WINDOW_LOOKS {
            self.looks.pop_front();
        }
        self.looks.push_back(now);
        self.block_looks += 1;
        if self.block_looks > BLOCK_LOOKS || self.looks.len() == 1 {
            self.block = now;
            self.block_looks = 0;
        }
    }

    /// Within the window.
    pub(super) fn recent(&self) -> Tally {
        match (self.looks.front(), self.looks.back()) {
            (Some(first), Some(last)) => last.since(*first),
            _ => Tally::default(),
        }
    }

    fn in_block(&self) -> Tally {
        self.looks.back().map_or(Tally::default(), |last| last.since(self.block))
    }
}

/// Why a backend has to go by its own numbers; `None` when it may stay, or when there is enough to compare it with, or
/// when stable is no better. `usual`: stable's share of failures when it last took requests.
pub(super) fn verdict(candidate: &Window, stable: &Window, usual: f64) -> Option<String> {
    let (failing, other) = (candidate.recent(), stable.recent());
    let comparable = other.requests >= STABLE_REQUESTS_MIN;
    if comparable && other.share() > STABLE_SHARE_MAX {
        return None;
    }
    if failing.requests >= REQUESTS_MIN && failing.share() >= SHARE_MAX {
        return Some(format!("{} of {} requests failed within {WINDOW_LOOKS} s", failing.failures, failing.requests));
    }
    if comparable {
        return None;
    }
    let block = candidate.in_block();
    let tolerated = (usual * FACTOR).max(usual + MARGIN);
    // Most of the time nothing fails, and the bound needs a hundred logarithms.
    if block.share() <= tolerated {
        return None;
    }
    let at_least = ProportionBound::new(1000.0, BLOCK_ALPHA).lower(block.failures, block.requests);
    (at_least > tolerated).then(|| {
        format!(
            "{} of {} requests failed, so at least {:.1} % do; stable was at {:.2} %",
            block.failures,
            block.requests,
            at_least * 100.0,
            usual * 100.0
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(looks: &[(u64, u64)]) -> Window {
        let mut window = Window::default();
        for (requests, failures) in looks {
            window.look(Tally { requests: *requests, failures: *failures });
        }
        window
    }

    #[test]
    fn half_of_twenty_requests_are_enough() {
        let idle = window(&[(0, 0), (0, 0)]);
        assert!(verdict(&window(&[(0, 0), (20, 10)]), &idle, 0.0).is_some());
        assert!(verdict(&window(&[(0, 0), (19, 19)]), &idle, 0.9).is_none());
    }

    #[test]
    fn a_stable_that_fails_too_keeps_the_other_in() {
        let both = window(&[(0, 0), (100, 60)]);
        assert_eq!(verdict(&both, &both, 0.0), None);
        assert!(verdict(&both, &window(&[(0, 0), (100, 1)]), 0.0).is_some());
    }

    #[test]
    fn what_failed_long_ago_is_over() {
        let mut looks = vec![(0, 0), (100, 100)];
        looks.extend([(100, 100); WINDOW_LOOKS]);
        let idle = window(&[]);
        assert!(verdict(&window(&looks[..6]), &idle, 0.0).is_some());
        looks.push((100_000, 100));
        assert_eq!(verdict(&window(&looks), &idle, 0.0), None);
    }

    #[test]
    fn after_a_flip_failures_count_against_what_stable_was_like() {
        let idle = window(&[]);
        let flipped = window(&[(0, 0), (2_000, 200)]);
        assert!(verdict(&flipped, &idle, 0.001).is_some());
        assert_eq!(verdict(&flipped, &idle, 0.09), None);
        assert_eq!(verdict(&flipped, &window(&[(0, 0), (1_000, 0)]), 0.001), None, "the comparison decides");
    }
}
