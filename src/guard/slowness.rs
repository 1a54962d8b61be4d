//! When is an answer slow? Later than nearly all of stable's, as of a moment ago.
//!
//! The limit comes from stable's own latencies of the time before, never from the requests that it judges: so, where
//! both sides are equally fast, both cross it equally often, whatever the latencies look like.

use std::time::Duration;

use crate::observe::HistogramTotals;

/// Fewer answers don't tell what is usual.
const SAMPLES_MIN: u64 = 200;
/// How many looks, a second each, a limit holds before newer answers move it.
const LOOKS: u32 = 10;
/// Cold caches: how much later a revision's answers may be at first, and how many looks long.
const YOUNG_FACTOR: u32 = 10;
pub(super) const YOUNG_LOOKS: u32 = 30;

/// The limit of one service.
#[derive(Debug, Default)]
pub(super) struct Slowness {
    /// Stable's answers up to the begin of the window.
    before: HistogramTotals,
    looks: u32,
    limit: Option<Duration>,
}

impl Slowness {
    /// A limit that comes from what is answered from now on.
    pub(super) fn since(answers: &HistogramTotals) -> Self {
        Self { before: answers.clone(), ..Self::default() }
    }

    /// Looks at stable's answers so far; call it each second. `None` until there were enough of them.
    pub(super) fn look(&mut self, answers: &HistogramTotals) -> Option<Duration> {
        self.looks += 1;
        if self.limit.is_none() || self.looks >= LOOKS {
            let window = answers.since(&self.before);
            if window.count() >= SAMPLES_MIN {
                self.limit = window.quantile(0.95).map(limit_of);
                self.before = answers.clone();
                self.looks = 0;
            }
        }
        self.limit
    }
}

/// Slow beyond doubt: twice what nearly all need, and by more than a person or a hiccup of the machine would make.
fn limit_of(p95: Duration) -> Duration {
    (2 * p95).max(p95 + Duration::from_millis(50))
}

/// The limit while one of the revisions that are compared has taken requests for so many looks.
pub(super) fn for_age(limit: Option<Duration>, youngest_looks: u32) -> Option<Duration> {
    let factor = if youngest_looks < YOUNG_LOOKS { YOUNG_FACTOR } else { 1 };
    limit.map(|limit| limit * factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Histogram;

    fn totals(histogram: &Histogram) -> HistogramTotals {
        let mut totals = HistogramTotals::default();
        totals.add(histogram);
        totals
    }

    fn answer(histogram: &Histogram, count: u32, ms: u64) {
        (0..count).for_each(|_| histogram.record(Duration::from_millis(ms)));
    }

    #[test]
    fn nobody_is_slow_before_it_is_known_what_is_usual() {
        let (mut slowness, answers) = (Slowness::default(), Histogram::default());
        answer(&answers, 199, 1);
        assert_eq!(slowness.look(&totals(&answers)), None);
        answer(&answers, 1, 1);
        let limit = slowness.look(&totals(&answers)).unwrap();
        assert!((50..53).contains(&limit.as_millis()), "{limit:?}");
    }

    #[test]
    fn the_limit_follows_stable_and_stays_where_stable_says_nothing() {
        let (mut slowness, answers) = (Slowness::default(), Histogram::default());
        answer(&answers, 1000, 1);
        let quick = slowness.look(&totals(&answers)).unwrap();
        answer(&answers, 1000, 300);
        for _ in 1..LOOKS {
            assert_eq!(slowness.look(&totals(&answers)), Some(quick), "a window is looked at once it is over");
        }
        let slower = slowness.look(&totals(&answers)).unwrap();
        assert!((500..760).contains(&slower.as_millis()), "{slower:?}");
        for _ in 0..50 {
            assert_eq!(slowness.look(&totals(&answers)), Some(slower));
        }
    }

    #[test]
    fn a_young_revision_may_be_ten_times_as_late() {
        let limit = Some(Duration::from_millis(60));
        assert_eq!(for_age(limit, YOUNG_LOOKS - 1), Some(Duration::from_millis(600)));
        assert_eq!(for_age(limit, YOUNG_LOOKS), limit);
        assert_eq!(for_age(None, 0), None);
    }
}
