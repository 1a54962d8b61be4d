//! A share of requests or clients, each drawn by itself.

use std::fmt;

use super::{BackendName, ServiceName};

/// From 0 to 100; fractions allowed, down to one of 10^17 requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Percent {
    value: f64,
    /// Draws below this are in; `None`: all are.
    bound: Option<u64>,
}

/// Why a number is no share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PercentError(f64);

impl fmt::Display for PercentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a percentage is a number from 0 to 100, not {}", self.0)
    }
}

impl std::error::Error for PercentError {}

impl Percent {
    pub const ALL: Self = Self { value: 100.0, bound: None };

    /// # Errors
    /// When `value` is not a number from 0 to 100.
    pub fn new(value: f64) -> Result<Self, PercentError> {
        if !(0.0..=100.0).contains(&value) {
            return Err(PercentError(value));
        }
        // 2^64 as f64. `-0.0` is in the range; adding 0.0 makes it print as 0.
        let bound = (value < 100.0).then_some((value / 100.0 * 18_446_744_073_709_551_616.0) as u64);
        Ok(Self { value: value + 0.0, bound })
    }

    /// The number itself.
    #[must_use]
    pub fn value(self) -> f64 {
        self.value
    }

    /// Nobody is in.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.bound == Some(0)
    }

    /// Whether what drew this, uniformly over all `u64`, is in. Who is in stays in while the share grows.
    #[must_use]
    pub fn takes(self, draw: u64) -> bool {
        self.bound.is_none_or(|bound| draw < bound)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.value)
    }
}

/// How much of a service is mirrored to a backend, set live, and the file's share that this replaced.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveMirror {
    pub service: ServiceName,
    pub backend: BackendName,
    pub percent: Percent,
    pub replaced: Percent,
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn draws_are_in_as_often_as_said() {
        let mut rng = StdRng::seed_from_u64(1);
        for (percent, draws) in [(10.0, 100_000), (0.01, 1_000_000)] {
            let share = Percent::new(percent).unwrap();
            let taken = (0..draws).filter(|_| share.takes(rng.next_u64())).count() as f64;
            let expected = percent / 100.0 * f64::from(draws);
            assert!((taken - expected).abs() < 4.0 * expected.sqrt(), "{taken} of {draws} at {percent} %");
        }
    }

    #[test]
    fn none_is_none_all_is_all_and_the_smallest_sample_is_some() {
        assert!(!Percent::new(0.0).unwrap().takes(0) && Percent::new(-0.0).unwrap().is_zero());
        assert!(Percent::ALL.takes(u64::MAX) && Percent::new(100.0) == Ok(Percent::ALL));
        let least = Percent::new(1e-5).unwrap();
        assert!(!least.is_zero() && least.takes(1_844_674_407_369) && !least.takes(1_844_674_407_371));
        for wrong in [-1.0, 100.1, f64::NAN, f64::INFINITY] {
            assert!(Percent::new(wrong).is_err(), "{wrong}");
        }
    }
}
