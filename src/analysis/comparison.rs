//! Does the candidate fail more often than stable? The error-arm e-process, mixed over the moment a fault begins.
//!
//! Every request is sent to one side at random with a known probability. So, as long as the candidate is no worse than
//! tolerated, each failure is the candidate's with at most a known probability, whatever the failure rate does
//! meanwhile: a shared outage, a ramp of the weights, a quiet night leave it as it is. Betting against that
//! probability gains nothing on average, and the chance that the winnings ever reach `1/α` is at most `α` (Ville). Nothing
//! has to be counted but failures.
//!
//! A bettor who started long ago has lost much of the stake by the time a fault begins. So one more starts with each
//! counted failure, the `n`-th with a stake of `1/(n(n+1))`; together they have `1`, and what is not yet staked stays.
//!
//! ```text
//! S_k <- (S_k + w_n) * f_k        w_n = 1/(n(n+1)), f_k: the factor of alternative k for this failure
//! M    = mean of S_k + 1/(n+1)    starts at 1; its expectation stays 1 while the candidate is tolerable
//! ```
//!
//! Source: Lindon and Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022, in the conditional
//! form; Ville's inequality; mixtures of e-processes are e-processes.

use super::{ALTERNATIVES, factor};

/// Larger winnings are decided anyway, and this leaves room for one more factor.
const WINNINGS_MAX: f64 = 1e280;

/// Whose failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Stable,
    Candidate,
}

/// The evidence that one candidate fails in one way more than `tolerated` times as often as stable.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    tolerated: f64,
    failures: u64,
    winnings: [f64; ALTERNATIVES.len()],
}

impl Comparison {
    /// Nothing has failed yet. `tolerated`: how many times as often as stable the candidate may fail, above 0.
    #[must_use]
    pub fn new(tolerated: f64) -> Self {
        Self::resumed(tolerated, 0)
    }

    /// Goes on after a restart: the winnings are lost, the stakes that were placed stay placed, so the level holds
    /// over the whole life.
    #[must_use]
    pub fn resumed(tolerated: f64, failures: u64) -> Self {
        debug_assert!(tolerated > 0.0, "a candidate that may never fail can't be compared");
        Self { tolerated, failures, winnings: [0.0; ALTERNATIVES.len()] }
    }

    /// Counts a failure of a request that went to the candidate with probability `share`, between 0 and 1, both
    /// excluded. Other shares say nothing about the sides and are not counted.
    pub fn observe(&mut self, side: Side, share: f64) {
        if !(share > 0.0 && share < 1.0) {
            return;
        }
        self.failures += 1;
        let n = self.failures as f64;
        let stake = 1.0 / (n * (n + 1.0));
        for (winnings, alternative) in self.winnings.iter_mut().zip(ALTERNATIVES) {
            *winnings = ((*winnings + stake) * factor(side, share, self.tolerated, alternative)).min(WINNINGS_MAX);
        }
    }

    /// The evidence: 1 at first, its expectation at most 1 while the candidate is tolerable.
    #[must_use]
    pub fn e_value(&self) -> f64 {
        let staked = self.winnings.iter().sum::<f64>() / ALTERNATIVES.len() as f64;
        staked + 1.0 / (self.failures as f64 + 1.0)
    }

    /// Failures counted, of both sides.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures
    }

    #[must_use]
    pub fn tolerated(&self) -> f64 {
        self.tolerated
    }
}

/// One evidence of several comparisons of the same candidate: valid however they depend on each other.
#[must_use]
pub fn average<'a>(comparisons: impl IntoIterator<Item = &'a Comparison>) -> f64 {
    let (sum, count) = comparisons.into_iter().fold((0.0, 0), |(sum, count), c| (sum + c.e_value(), count + 1));
    if count == 0 { 1.0 } else { sum / f64::from(count) }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::analysis::candidate_probability;

    /// "s19 c1" ten times over, and the like.
    fn run(tolerated: f64, share: f64, parts: &[(usize, &[(Side, usize)])]) -> Comparison {
        let mut comparison = Comparison::new(tolerated);
        for (times, runs) in parts {
            for _ in 0..*times {
                for (side, count) in *runs {
                    (0..*count).for_each(|_| comparison.observe(*side, share));
                }
            }
        }
        comparison
    }

    const C: Side = Side::Candidate;
    const S: Side = Side::Stable;

    #[test]
    fn the_evidence_is_that_of_the_published_vectors() {
        type Parts = &'static [(usize, &'static [(Side, usize)])];
        let vectors: [(Parts, f64, f64); 10] = [
            (&[(1, &[(C, 1)])], 1.440697, 1.078517),
            (&[(1, &[(C, 2)])], 3.939974, 2.937388),
            (&[(1, &[(C, 3)])], 6.718153, 5.069079),
            (&[(1, &[(C, 4)])], 9.571590, 7.285015),
            (&[(1, &[(C, 5)])], 12.458307, 9.535877),
            (&[(1, &[(C, 7)])], 18.284812, 14.087844),
            (&[(1, &[(S, 20)])], -1.294468, -1.621222),
            (&[(1, &[(S, 20), (C, 5)])], 7.185606, 4.300151),
            (&[(10, &[(S, 19), (C, 1)])], -1.845531, -3.769892),
            (&[(10, &[(S, 19), (C, 1)]), (1, &[(C, 8)])], 14.339004, 8.893001),
        ];
        for (parts, at_1, at_2) in vectors {
            for (tolerated, wanted) in [(1.0, at_1), (2.0, at_2)] {
                let ln = run(tolerated, 0.05, parts).e_value().ln();
                assert!((ln - wanted).abs() < 5e-7, "{parts:?} at {tolerated}: {ln} instead of {wanted}");
            }
        }
        for (count, wanted) in [(10, 2.927317), (20, 6.693171)] {
            let ln = run(2.0, 0.5, &[(count, &[(C, 1)])]).e_value().ln();
            assert!((ln - wanted).abs() < 5e-7, "{count}: {ln}");
        }
    }

    #[test]
    fn its_expectation_stays_one_over_every_sequence_of_failures() {
        for (tolerated, share) in [(1.0, 0.05), (2.0, 0.05), (2.0, 0.5), (5.0, 0.01)] {
            let probability = candidate_probability(share, tolerated);
            for length in [1, 5, 16] {
                let mut expectation = 0.0;
                for sequence in 0..1_u32 << length {
                    let mut comparison = Comparison::new(tolerated);
                    let mut chance = 1.0;
                    for bit in 0..length {
                        let candidate = sequence >> bit & 1 == 1;
                        comparison.observe(if candidate { C } else { S }, share);
                        chance *= if candidate { probability } else { 1.0 - probability };
                    }
                    expectation += chance * comparison.e_value();
                }
                assert!((expectation - 1.0).abs() < 1e-9, "{tolerated}, {share}, {length}: {expectation}");
            }
        }
    }

    #[test]
    fn evidence_beyond_all_doubt_stays_a_number() {
        let comparison = run(2.0, 0.01, &[(5000, &[(C, 1)])]);
        assert!(comparison.e_value().is_finite());
        assert!(comparison.e_value() > 1e200);
        assert!(run(2.0, 0.99, &[(100_000, &[(S, 1)])]).e_value() > 0.0);
    }

    #[test]
    fn a_share_that_compares_nothing_is_not_counted() {
        let mut comparison = Comparison::new(2.0);
        for share in [0.0, 1.0, -1.0, 2.0, f64::NAN, f64::INFINITY] {
            comparison.observe(C, share);
        }
        assert_eq!(comparison, Comparison::new(2.0));
    }

    #[test]
    fn a_restart_forgets_the_winnings_and_keeps_the_stakes() {
        let resumed = Comparison::resumed(2.0, 99);
        assert!((resumed.e_value() - 0.01).abs() < 1e-12);
    }

    /// The share of `runs` in which the evidence ever reaches `1/alpha`, each of `failures` failures; `draw` says whose
    /// the n-th is and with which share.
    fn false_alarms(
        runs: usize,
        failures: usize,
        alpha: f64,
        mut draw: impl FnMut(&mut StdRng, usize) -> (Side, f64),
    ) -> f64 {
        let mut rng = StdRng::seed_from_u64(20_261_120);
        let alarmed = |_: &usize| {
            let mut comparison = Comparison::new(2.0);
            (0..failures).any(|n| {
                let (side, share) = draw(&mut rng, n);
                comparison.observe(side, share);
                comparison.e_value() >= 1.0 / alpha
            })
        };
        (0..runs).filter(alarmed).count() as f64 / runs as f64
    }

    fn side(rng: &mut StdRng, probability: f64) -> Side {
        if rng.random_bool(probability) { C } else { S }
    }

    #[test]
    fn twenty_thousand_tolerable_candidates_raise_fewer_false_alarms_than_the_level() {
        let alpha = 0.01;
        // Exactly at the tolerated ratio, the hardest tolerable case.
        let steady = false_alarms(20_000, 100, alpha, |rng, _| (side(rng, candidate_probability(0.05, 2.0)), 0.05));
        let ramp = false_alarms(20_000, 100, alpha, |rng, n| {
            let share = [0.01, 0.05, 0.25, 0.5][n / 25];
            (side(rng, candidate_probability(share, 2.0)), share)
        });
        // As bad as stable, while what counts as a failure comes and goes: the rate never appears.
        let alike = false_alarms(20_000, 100, alpha, |rng, _| (side(rng, 0.05), 0.05));
        assert!(steady < alpha, "steady: {steady}");
        assert!(ramp < alpha, "ramp: {ramp}");
        assert!(alike < alpha / 5.0, "alike: {alike}");
        // A baseline that drifts: a candidate that was better than stable, while little failed, becomes as bad as it may.
        let drift = false_alarms(20_000, 100, alpha, |rng, n| {
            (side(rng, candidate_probability(0.05, [0.2, 0.2, 1.0, 2.0][n / 25])), 0.05)
        });
        assert!(drift < alpha, "drift: {drift}");
        // And it is a test that can alarm at all.
        let worse = false_alarms(200, 200, alpha, |rng, _| (side(rng, candidate_probability(0.05, 20.0)), 0.05));
        assert!(worse > 0.95, "worse: {worse}");
    }

    #[test]
    fn each_of_several_tolerable_candidates_is_found_guilty_less_often_than_the_level() {
        let (alpha, mut rng, weights) = (0.01, StdRng::seed_from_u64(20_261_121), [0.80, 0.10, 0.06, 0.04]);
        // All of them at the tolerated ratio: of stable's failures each comparison sees the same ones.
        let rates: Vec<f64> = weights.iter().enumerate().map(|(n, w)| if n == 0 { *w } else { 2.0 * w }).collect();
        let all: f64 = rates.iter().sum();
        let mut guilty = [0; 3];
        for _ in 0..20_000 {
            let mut comparisons = [(); 3].map(|()| Comparison::new(2.0));
            let mut found = [false; 3];
            for _ in 0..60 {
                let mut left = rng.random::<f64>() * all;
                let failed = rates.iter().position(|rate| {
                    left -= rate;
                    left < 0.0
                });
                let failed = failed.unwrap_or(0);
                for (candidate, comparison) in comparisons.iter_mut().enumerate() {
                    if failed == 0 || failed == candidate + 1 {
                        let weight = weights[candidate + 1];
                        comparison.observe(if failed == 0 { S } else { C }, weight / (weight + weights[0]));
                        found[candidate] |= comparison.e_value() >= 1.0 / alpha;
                    }
                }
            }
            guilty.iter_mut().zip(found).for_each(|(count, found)| *count += u32::from(found));
        }
        for count in guilty {
            assert!(f64::from(count) / 20_000.0 < alpha, "{guilty:?}");
        }
    }

    /// Candidate failures until the average of four metrics reaches 10,000 when one of them is at fault: the median
    /// of 201 runs, `healthy` failures after the start.
    fn detection(candidate: f64, stable: f64, healthy: usize) -> usize {
        let mut rng = StdRng::seed_from_u64(7);
        let share = 0.05;
        let probability = candidate_probability(share, candidate / stable);
        let mut counts: Vec<usize> = (0..201)
            .map(|_| {
                let mut comparison = Comparison::new(2.0);
                (0..healthy).for_each(|_| comparison.observe(side(&mut rng, share), share));
                let mut failed = 0;
                // The other three stand below 1 and are left at 0.
                while comparison.e_value() / 4.0 < 1e4 {
                    let side = side(&mut rng, probability);
                    failed += usize::from(side == C);
                    comparison.observe(side, share);
                }
                failed
            })
            .collect();
        counts.sort_unstable();
        counts[100]
    }

    #[test]
    fn a_fault_is_found_within_the_failures_that_the_tables_promise() {
        // (stable's rate, candidate's rate, fresh, after 360, after 3600)
        for (stable, candidate, wanted) in
            [(0.001, 1.0, [6, 11, 13]), (0.001, 0.1, [6, 13, 15]), (0.001, 0.01, [20, 33, 38])]
        {
            for (healthy, wanted) in [0, 360, 3600].into_iter().zip(wanted) {
                let found = detection(candidate, stable, healthy);
                let near = wanted / 5 + 1;
                assert!(found.abs_diff(wanted) <= near, "{candidate} after {healthy}: {found}, not {wanted}");
            }
        }
    }
}
