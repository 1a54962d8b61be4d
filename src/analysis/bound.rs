//! How often does a backend fail, at most and at least? A beta-binomial confidence sequence: the interval holds at
//! every moment at once, with probability `1 - α`.
//!
//! Source: Howard, Ramdas, McAuliffe and Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences",
//! 2021, as in the authors' `confseq` library.

use super::gamma::ln_beta;

/// The bisection's last interval is a billionth wide: rates are shown with far fewer digits.
const BISECTIONS: usize = 30;

/// An interval for the rate of something that happened in some of many requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProportionBound {
    /// How much the mixture trusts its centre; from the count of requests at which the interval is to be tightest.
    concentration: f64,
    ln_threshold: f64,
}

impl ProportionBound {
    /// Tightest at about `requests`; wrong with probability `alpha` at most.
    #[must_use]
    pub fn new(requests: f64, alpha: f64) -> Self {
        // The optimal variance is defined at a level of 5 %, whatever the level asked for.
        let ln = 2.0 * 20.0_f64.ln();
        let concentration = (requests / (ln + (1.0 + ln).ln()) - 1.0).max(1e-3);
        Self { concentration, ln_threshold: -alpha.ln() }
    }

    /// The highest rate that `events` of `requests` leave plausible; 1 when there were none.
    #[must_use]
    pub fn upper(&self, events: u64, requests: u64) -> f64 {
        let observed = if requests == 0 { 1.0 } else { events as f64 / requests as f64 };
        self.bisect(events, requests, observed, 1.0)
    }

    /// The lowest rate that they leave plausible; 0 when there were none.
    #[must_use]
    pub fn lower(&self, events: u64, requests: u64) -> f64 {
        let observed = if requests == 0 { 0.0 } else { events as f64 / requests as f64 };
        self.bisect(events, requests, observed, 0.0)
    }

    /// About how many more requests it takes until the upper bound is below `target`, should events keep happening as
    /// often as so far. `None` when they would never suffice.
    #[must_use]
    pub fn requests_until_below(&self, target: f64, events: u64, requests: u64) -> Option<u64> {
        const MORE_MAX: u64 = 1 << 32;
        let rate = if requests == 0 { 0.0 } else { events as f64 / requests as f64 };
        let below = |more: u64| {
            let later = events + (rate * more as f64).round() as u64;
            self.upper(later, requests + more) <= target
        };
        if below(0) {
            return Some(0);
        }
        if rate >= target || !below(MORE_MAX) {
            return None;
        }
        let (mut short, mut enough) = (0, MORE_MAX);
        while enough - short > 1 {
            let middle = short + (enough - short) / 2;
            if below(middle) { enough = middle } else { short = middle }
        }
        Some(enough)
    }

    /// Where plausibility ends between the `observed` rate and `end`.
    fn bisect(&self, events: u64, requests: u64, observed: f64, end: f64) -> f64 {
        let (mut inside, mut outside) = (observed, end);
        for _ in 0..BISECTIONS {
            let middle = f64::midpoint(inside, outside);
            if self.is_plausible(middle, events, requests) { inside = middle } else { outside = middle }
        }
        outside
    }

    fn is_plausible(&self, rate: f64, events: u64, requests: u64) -> bool {
        let (events, others) = (events as f64, requests.saturating_sub(events) as f64);
        let (a, b) = (self.concentration * rate, self.concentration * (1.0 - rate));
        let ln_e = ln_beta(a + events, b + others) - ln_beta(a, b) - events * rate.ln() - others * (-rate).ln_1p();
        ln_e < self.ln_threshold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_that_of_the_reference_library() {
        for (events, requests, best_at, low, high) in [
            (700, 1000, 100.0, 0.651629, 0.745949),
            (15, 50, 50.0, 0.129556, 0.511896),
            (5, 50, 50.0, 0.013021, 0.269264),
            (100, 200, 1.0, 0.328923, 0.671076),
        ] {
            let bound = ProportionBound::new(best_at, 0.05);
            assert!((bound.lower(events, requests) - low).abs() < 2e-6, "{}", bound.lower(events, requests));
            assert!((bound.upper(events, requests) - high).abs() < 2e-6, "{}", bound.upper(events, requests));
        }
    }

    #[test]
    fn as_many_requests_are_needed_as_the_table_says() {
        let bound = ProportionBound::new(1000.0, 0.05);
        for (target, needed) in [(0.01, [502, 747, 1140]), (0.005, [869, 1449, 2267]), (0.001, [3439, 7662, 12674])] {
            for (events, needed) in [0_u64, 1, 3].into_iter().zip(needed) {
                // The table was searched in steps of up to 3 %.
                assert!(bound.upper(events, needed) <= target, "{events} of {needed} for {target}");
                assert!(bound.upper(events, needed - needed / 30) > target, "{events} of {needed} for {target}");
            }
        }
    }

    #[test]
    fn what_is_missing_can_be_foretold() {
        let bound = ProportionBound::new(1000.0, 0.05);
        assert_eq!(bound.requests_until_below(0.01, 0, 0), Some(499));
        assert_eq!(bound.requests_until_below(0.01, 0, 400), Some(99));
        assert_eq!(bound.requests_until_below(0.01, 0, 499), Some(0));
        assert_eq!(bound.requests_until_below(0.01, 20, 1000), None);
    }

    #[test]
    fn nothing_seen_says_nothing() {
        let bound = ProportionBound::new(1000.0, 0.05);
        assert!(bound.upper(0, 0) > 0.999);
        assert!(bound.lower(0, 0) < 0.001);
        assert!(bound.upper(10, 10) > 0.999);
        assert!(bound.lower(10, 10) > 0.0);
    }
}
