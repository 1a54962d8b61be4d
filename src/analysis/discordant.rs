//! Does one of two differ more often than the other, seen on the same requests? Only requests on which exactly one of
//! them does say something: if both are alike, it is either with the same probability.
//!
//! The conditional e-process of [`super::Comparison`] at a share of one half; both sides see every request. It begins at
//! once, since what differs does so from the start, so that counts are all there is to keep.
//!
//! Source: as for `Comparison`; the sign test's pairs.

use serde::{Deserialize, Serialize};

use super::{ALTERNATIVES, Side, factor};

/// Requests on which exactly one of two sides differed, or failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Discordance {
    pub candidate_only: u64,
    pub stable_only: u64,
}

impl Discordance {
    /// Counts one request.
    pub fn observe(&mut self, candidate: bool, stable: bool) {
        self.candidate_only += u64::from(candidate && !stable);
        self.stable_only += u64::from(stable && !candidate);
    }

    /// The evidence that the candidate is the one more than `tolerated` times as often as stable: 1 at first, its
    /// expectation at most 1 while it isn't. The chance that it ever reaches `1/α` is at most `α` then.
    #[must_use]
    pub fn e_value(&self, tolerated: f64) -> f64 {
        let ln_of = |alternative: f64| self.ln_factor(tolerated, alternative);
        let mean = ALTERNATIVES.iter().map(|alternative| ln_of(*alternative).exp()).sum::<f64>();
        // Beyond that, more says no more; and JSON has no infinity.
        (mean / ALTERNATIVES.len() as f64).min(1e280)
    }

    fn ln_factor(&self, tolerated: f64, alternative: f64) -> f64 {
        const SHARE: f64 = 0.5;
        let ln = |side| factor(side, SHARE, tolerated, alternative).ln();
        self.candidate_only as f64 * ln(Side::Candidate) + self.stable_only as f64 * ln(Side::Stable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::candidate_probability;

    fn ln(candidate_only: u64, stable_only: u64, tolerated: f64) -> f64 {
        Discordance { candidate_only, stable_only }.e_value(tolerated).ln()
    }

    #[test]
    fn the_evidence_is_that_of_the_published_vectors() {
        assert!((ln(30, 30, 1.0) - -2.099330).abs() < 5e-7, "{}", ln(30, 30, 1.0));
        assert!(ln(0, 0, 1.0).abs() < 1e-12);
        // The same sums at another share: the formula is that of the table for 5 %.
        for (candidate, stable, wanted) in [
            (1, 0, 2.007848),
            (2, 0, 4.602019),
            (3, 0, 7.389938),
            (4, 0, 10.245118),
            (5, 1, 10.719030),
            (7, 14, 6.548777),
            (10, 40, 5.282285),
            (50, 460, 7.723907),
            (10, 190, -1.920325),
        ] {
            let sum: f64 = ALTERNATIVES
                .iter()
                .map(|alternative| {
                    let ln = |side| factor(side, 0.05, 1.0, *alternative).ln();
                    (f64::from(candidate) * ln(Side::Candidate) + f64::from(stable) * ln(Side::Stable)).exp()
                })
                .sum();
            assert!(((sum / 9.0).ln() - wanted).abs() < 5e-7, "{candidate}, {stable}");
        }
    }

    #[test]
    fn its_expectation_stays_one_over_all_counts() {
        for tolerated in [1.0, 2.0] {
            let probability = candidate_probability(0.5, tolerated);
            for length in [1_u64, 5, 40] {
                let mut chance = (1.0 - probability).powi(length as i32);
                let mut expectation = 0.0;
                for candidate_only in 0..=length {
                    let counts = Discordance { candidate_only, stable_only: length - candidate_only };
                    expectation += chance * counts.e_value(tolerated);
                    let odds = probability / (1.0 - probability);
                    chance *= odds * (length - candidate_only) as f64 / (candidate_only + 1) as f64;
                }
                assert!((expectation - 1.0).abs() < 1e-9, "{tolerated}, {length}: {expectation}");
            }
        }
    }

    #[test]
    fn only_requests_on_which_one_of_both_differs_count() {
        let mut counts = Discordance::default();
        for (candidate, stable) in [(true, true), (false, false), (true, false), (false, true), (true, false)] {
            counts.observe(candidate, stable);
        }
        assert_eq!(counts, Discordance { candidate_only: 2, stable_only: 1 });
        assert!(ln(u64::MAX, 0, 1.0).is_finite());
    }
}
