//! Weights, and the split they make: each request goes to a backend with exactly its known probability,
//! independently of every other request. Independence is what later lets two backends be compared honestly, and
//! it is why this is a random draw and not a smooth round robin.

use std::fmt;

use super::{BackendName, ServiceName};

/// The largest weight. Weights are relative, so anything sensible fits; the bound keeps sums exact.
const WEIGHT_MAX: f64 = 1e9;

/// The relative share of one backend: finite, at least 0, at most a thousand million; fractions allowed.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Weight(f64);

/// Why a number is no weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WeightError(f64);

impl fmt::Display for WeightError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a weight is a number from 0 to {WEIGHT_MAX:.0}, not {}", self.0)
    }
}

impl std::error::Error for WeightError {}

impl Weight {
    /// No share at all: the backend gets only requests that a rule forces on it.
    pub const ZERO: Self = Self(0.0);

    /// # Errors
    /// When `value` is negative, not finite, or above a thousand million.
    pub fn new(value: f64) -> Result<Self, WeightError> {
        if value.is_finite() && (0.0..=WEIGHT_MAX).contains(&value) {
            // `-0.0` is in the range; adding 0.0 makes it print as 0.
            Ok(Self(value + 0.0))
        } else {
            Err(WeightError(value))
        }
    }

    /// The number itself.
    #[must_use]
    pub fn value(self) -> f64 {
        self.0
    }

    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0 == 0.0
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A table that maps a uniform 64-bit draw to an index, with probabilities exact to 2^-53.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// Upper bounds of the draw for each index that has a share, ascending; the last is `u64::MAX`.
    bounds: Box<[(u64, u32)]>,
}

impl Split {
    /// A split over `weights`, one per index. `None` when no weight is above zero.
    #[must_use]
    pub fn new(weights: &[Weight]) -> Option<Self> {
        let total: f64 = weights.iter().map(|w| w.value()).sum();
        let mut sum = 0.0;
        let mut bounds: Vec<(u64, u32)> = Vec::with_capacity(weights.len());
        for (index, weight) in (0u32..).zip(weights).filter(|(_, w)| !w.is_zero()) {
            sum += weight.value();
            // 2^64 as f64; the cast saturates, so a full sum becomes u64::MAX.
            bounds.push(((sum / total * 18_446_744_073_709_551_616.0) as u64, index));
        }
        bounds.last_mut()?.0 = u64::MAX;
        Some(Self { bounds: bounds.into() })
    }

    /// The index that a draw, uniform over all `u64`, falls on.
    #[must_use]
    pub fn pick(&self, draw: u64) -> usize {
        let at = self.bounds.iter().find(|(bound, _)| draw < *bound);
        let (_, index) = at.unwrap_or(&self.bounds[self.bounds.len() - 1]);
        *index as usize
    }
}

/// Live weights of one service, all of them, and the file's that they replaced.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveWeights {
    pub service: ServiceName,
    pub weights: NamedWeights,
    pub replaced: NamedWeights,
}

/// Every backend of a service with a weight, in the order of the file.
pub type NamedWeights = Vec<(BackendName, Weight)>;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn weights(values: &[f64]) -> Vec<Weight> {
        values.iter().map(|v| Weight::new(*v).unwrap()).collect()
    }

    /// Pearson's statistic of observed counts against expected shares.
    fn chi_square(counts: &[u64], shares: &[f64]) -> f64 {
        let n: u64 = counts.iter().sum();
        let total: f64 = shares.iter().sum();
        counts
            .iter()
            .zip(shares)
            .map(|(c, s)| (*c as f64 - n as f64 * s / total).powi(2) / (n as f64 * s / total))
            .sum()
    }

    #[test]
    fn draws_follow_the_weights_by_chi_square() {
        // Critical values of chi-square at 0.999 for 1, 2 and 3 degrees of freedom.
        let cases: [(&[f64], f64); 4] = [
            (&[95.0, 5.0], 10.83),
            (&[1.0, 1.0, 1.0], 13.82),
            (&[89.5, 10.0, 0.4, 0.1], 16.27),
            (&[0.001, 99.999], 10.83),
        ];
        for (shares, critical) in cases {
            let split = Split::new(&weights(shares)).unwrap();
            let mut rng = StdRng::seed_from_u64(7);
            let mut counts = vec![0u64; shares.len()];
            for _ in 0..1_000_000 {
                counts[split.pick(rng.next_u64())] += 1;
            }
            assert!(chi_square(&counts, shares) < critical, "{shares:?} gave {counts:?}");
        }
    }

    #[test]
    fn a_zero_weight_is_never_drawn_and_the_edges_are_covered() {
        let split = Split::new(&weights(&[0.0, 3.0, 0.0, 1.0, 0.0])).unwrap();
        assert_eq!(split.pick(0), 1);
        assert_eq!(split.pick(u64::MAX), 3);
        assert_eq!(split.pick(u64::MAX / 4 * 3 - 8), 1);
        assert_eq!(split.pick(u64::MAX / 4 * 3 + 8), 3);
    }

    #[test]
    fn no_weight_above_zero_makes_no_split() {
        assert_eq!(Split::new(&weights(&[0.0, 0.0])), None);
        assert_eq!(Split::new(&[]), None);
    }

    #[test]
    fn only_finite_numbers_from_zero_up_are_weights() {
        for bad in [-1.0, f64::NAN, f64::INFINITY, 1e10] {
            assert!(Weight::new(bad).is_err(), "{bad}");
        }
        assert_eq!(Weight::new(0.5).unwrap().to_string(), "0.5");
        assert_eq!(Weight::new(-0.0).unwrap().to_string(), "0");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

        /// Not a sample: the width of what each index is drawn for.
        #[test]
        fn every_index_is_drawn_with_its_share_exactly(
            shares in prop::collection::vec(
                prop_oneof![4 => 0.0..100.0f64, 1 => Just(0.0), 1 => 1e-9..1e-3f64, 1 => 1e6..1e9f64], 0..12,
            ),
        ) {
            let total: f64 = shares.iter().sum();
            let Some(split) = Split::new(&weights(&shares)) else {
                prop_assert!(total == 0.0);
                return Ok(());
            };
            let mut drawn = vec![0.0; shares.len()];
            let mut from = 0;
            for (bound, index) in split.bounds.iter().copied() {
                prop_assert!(from <= bound, "bounds ascend");
                if from < bound {
                    prop_assert_eq!(split.pick(from), index as usize);
                    prop_assert_eq!(split.pick(bound - 1), index as usize);
                }
                drawn[index as usize] += (bound - from) as f64 / 2f64.powi(64);
                from = bound;
            }
            for (drawn, share) in drawn.iter().zip(&shares) {
                let allowed = if *share == 0.0 { 0.0 } else { 1e-14 };
                prop_assert!((drawn - share / total).abs() <= allowed, "{} instead of {}", drawn, share / total);
            }
        }

        #[test]
        fn no_draw_falls_on_a_weight_of_zero(
            shares in prop::collection::vec(prop_oneof![Just(0.0), 0.0..1e9f64, 1e-320..1e-300f64], 1..6), draw: u64,
        ) {
            if let Some(split) = Split::new(&weights(&shares)) {
                for draw in [draw, 0, u64::MAX] {
                    prop_assert!(shares[split.pick(draw)] > 0.0);
                }
            }
        }
    }
}
