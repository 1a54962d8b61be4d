//! How many times as often as stable does the candidate fail, at least? The number that goes with a verdict.
//!
//! The same evidence as a comparison's, from its first failure on, asked the other way round: the largest tolerated
//! ratio that the failures so far still speak against.

use super::{ALTERNATIVES, Side, factor};

/// Shares that are told apart; further ones are counted with the nearest. A ramp has a handful.
const SHARES_MAX: usize = 32;

/// Failures by side and by the candidate's share when they were drawn.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RatioTally {
    counts: Vec<Count>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Count {
    share: f64,
    candidate: u64,
    stable: u64,
}

impl RatioTally {
    /// Counts a failure of a request that went to the candidate with probability `share`, between 0 and 1.
    pub fn observe(&mut self, side: Side, share: f64) {
        if !(share > 0.0 && share < 1.0) {
            return;
        }
        let count = self.count_at(share);
        match side {
            Side::Candidate => count.candidate += 1,
            Side::Stable => count.stable += 1,
        }
    }

    fn count_at(&mut self, share: f64) -> &mut Count {
        let same = self.counts.iter().position(|count| count.share.to_bits() == share.to_bits());
        let index = match same {
            Some(index) => index,
            None if self.counts.len() < SHARES_MAX => {
                self.counts.push(Count { share, candidate: 0, stable: 0 });
                self.counts.len() - 1
            }
            None => {
                let distance = |count: &Count| (count.share / share).ln().abs();
                let all = self.counts.iter().enumerate();
                let nearest = all.min_by(|(_, a), (_, b)| distance(a).total_cmp(&distance(b)));
                nearest.map_or(0, |(index, _)| index)
            }
        };
        &mut self.counts[index]
    }

    /// What was counted by both.
    #[must_use]
    pub fn plus(&self, more: &Self) -> Self {
        let mut sum = self.clone();
        for count in &more.counts {
            let at = sum.count_at(count.share);
            at.candidate += count.candidate;
            at.stable += count.stable;
        }
        sum
    }

    /// What was counted since `earlier`, an older count of the same.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |share: f64| earlier.counts.iter().find(|count| count.share.to_bits() == share.to_bits());
        let counts = self.counts.iter().map(|count| match before(count.share) {
            None => *count,
            Some(before) => Count {
                share: count.share,
                candidate: count.candidate.saturating_sub(before.candidate),
                stable: count.stable.saturating_sub(before.stable),
            },
        });
        Self { counts: counts.collect() }
    }

    /// The same with the sides exchanged: evidence against stable, and so in the candidate's favour.
    #[must_use]
    pub fn exchanged(&self) -> Self {
        let exchange =
            |count: &Count| Count { share: 1.0 - count.share, candidate: count.stable, stable: count.candidate };
        Self { counts: self.counts.iter().map(exchange).collect() }
    }

    /// Failures of the candidate and of stable.
    #[must_use]
    pub fn failures(&self) -> (u64, u64) {
        self.counts.iter().fold((0, 0), |(c, s), count| (c + count.candidate, s + count.stable))
    }

    /// The best single guess: the ratio at which the candidate's expected part of the failures is its actual one.
    /// `None` before the first failure; infinite when only the candidate has failed.
    #[must_use]
    pub fn estimate(&self) -> Option<f64> {
        let (candidate, stable) = self.failures();
        if candidate + stable == 0 {
            return None;
        }
        if stable == 0 {
            return Some(f64::INFINITY);
        }
        if candidate == 0 {
            return Some(0.0);
        }
        let expected = |ratio: f64| -> f64 {
            let part = |c: &Count| super::candidate_probability(c.share, ratio) * (c.candidate + c.stable) as f64;
            self.counts.iter().map(part).sum()
        };
        Some(bisect_ratio(|ratio| expected(ratio) <= candidate as f64))
    }

    /// The ratio is above this, but for a chance of `alpha`, whenever one looks. 0 when nothing is known.
    #[must_use]
    pub fn lower(&self, alpha: f64) -> f64 {
        let ln_threshold = -alpha.ln();
        let refuted = |tolerated: f64| self.ln_e_value(tolerated) >= ln_threshold;
        if refuted(RATIO_MIN) { bisect_ratio(refuted) } else { 0.0 }
    }

    /// The evidence, in logarithms, that the candidate fails more than `tolerated` times as often as stable, counted
    /// from the first failure.
    #[must_use]
    pub fn ln_e_value(&self, tolerated: f64) -> f64 {
        let logs = ALTERNATIVES.map(|alternative| {
            let ln = |side, share| factor(side, share, tolerated, alternative).ln();
            let parts = self.counts.iter().map(|c| {
                c.candidate as f64 * ln(Side::Candidate, c.share) + c.stable as f64 * ln(Side::Stable, c.share)
            });
            parts.sum::<f64>()
        });
        let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logs.iter().map(|ln| (ln - largest).exp()).sum();
        largest + (sum / ALTERNATIVES.len() as f64).ln()
    }
}

const RATIO_MIN: f64 = 1e-6;
const RATIO_MAX: f64 = 1e6;

/// The largest ratio for which `holds`, which holds for small ones and not for large ones.
fn bisect_ratio(holds: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (RATIO_MIN.ln(), RATIO_MAX.ln());
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if holds(middle.exp()) { low = middle } else { high = middle }
    }
    low.exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(candidate: u64, stable: u64, share: f64) -> RatioTally {
        RatioTally { counts: vec![Count { share, candidate, stable }] }
    }

    #[test]
    fn the_evidence_from_the_first_failure_is_that_of_the_vectors() {
        for (candidate, stable, share, wanted) in [
            (0, 0, 0.05, 0.0),
            (1, 0, 0.05, 2.007848),
            (2, 0, 0.05, 4.602019),
            (3, 0, 0.05, 7.389938),
            (4, 0, 0.05, 10.245118),
            (5, 1, 0.05, 10.719030),
            (7, 14, 0.05, 6.548777),
            (10, 40, 0.05, 5.282285),
            (50, 460, 0.05, 7.723907),
            (10, 190, 0.05, -1.920325),
            (20, 30, 0.25, 1.301426),
            (30, 30, 0.5, -2.099330),
        ] {
            let ln = tally(candidate, stable, share).ln_e_value(1.0);
            assert!((ln - wanted).abs() < 5e-7, "{candidate}, {stable}: {ln} instead of {wanted}");
        }
    }

    #[test]
    fn the_lower_bound_is_that_of_the_vectors() {
        for (candidate, stable, wanted) in [(7, 14, 2.0376), (10, 40, 1.4238), (50, 460, 1.2562)] {
            let lower = tally(candidate, stable, 0.05).lower(0.05);
            assert!((lower - wanted).abs() < 5e-5, "{candidate}, {stable}: {lower} instead of {wanted}");
        }
    }

    #[test]
    fn the_estimate_is_the_ratio_of_the_rates() {
        // 5 % of the requests and half of the failures: 19 times as often.
        assert!((tally(50, 50, 0.05).estimate().unwrap() - 19.0).abs() < 1e-6);
        assert_eq!(RatioTally::default().estimate(), None);
        assert_eq!(tally(3, 0, 0.05).estimate(), Some(f64::INFINITY));
        assert_eq!(tally(0, 3, 0.05).estimate(), Some(0.0));
        assert!(RatioTally::default().lower(0.05) <= 0.0);
    }

    #[test]
    fn what_came_since_is_counted_by_itself_and_either_side_can_be_the_accused() {
        let mut later = tally(3, 4, 0.05);
        (0..5).for_each(|_| later.observe(Side::Candidate, 0.05));
        later.observe(Side::Stable, 0.25);
        let since = later.since(&tally(3, 4, 0.05));
        assert_eq!(since.failures(), (5, 1));
        assert_eq!(tally(3, 4, 0.05).since(&later).failures(), (0, 0));
        assert_eq!(since.plus(&tally(3, 4, 0.05)), later);
        let exchanged = later.exchanged();
        assert_eq!(exchanged.failures(), (5, 8));
        let product = exchanged.estimate().unwrap() * later.estimate().unwrap();
        assert!((product - 1.0).abs() < 1e-6, "{product}");
    }

    #[test]
    fn shares_beyond_the_limit_are_counted_with_the_nearest() {
        let mut tally = RatioTally::default();
        (1..=1000).for_each(|n| tally.observe(Side::Candidate, f64::from(n) / 2000.0));
        assert_eq!(tally.counts.len(), SHARES_MAX);
        assert_eq!(tally.failures(), (1000, 0));
    }
}
