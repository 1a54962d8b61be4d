//! Do two fail alike? The exact test for a handful of failures (Fisher; the hypergeometric distribution).

use libm::lgamma;

/// What came of a number of attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attempts {
    pub answered: u64,
    pub failed: u64,
}

impl Attempts {
    /// What came since `earlier`, an older count of the same.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            answered: self.answered.saturating_sub(earlier.answered),
            failed: self.failed.saturating_sub(earlier.failed),
        }
    }

    #[must_use]
    pub fn ended(self) -> u64 {
        self.answered + self.failed
    }
}

impl std::iter::Sum for Attempts {
    fn sum<I: Iterator<Item = Self>>(each: I) -> Self {
        each.fold(Self::default(), |sum, it| Self {
            answered: sum.answered + it.answered,
            failed: sum.failed + it.failed,
        })
    }
}

/// How likely it is that the failures fall on `own` and on `others` as they did, if both fail alike.
#[must_use]
pub fn chance_if_alike(own: Attempts, others: Attempts) -> f64 {
    let (failed, answered) = (own.failed + others.failed, own.answered + others.answered);
    let ways = ln_choose(failed, own.failed) + ln_choose(answered, own.answered);
    (ways - ln_choose(failed + answered, own.failed + own.answered)).exp()
}

fn ln_choose(n: u64, k: u64) -> f64 {
    let ln_factorial = |n: u64| lgamma(n as f64 + 1.0);
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts(answered: u64, failed: u64) -> Attempts {
        Attempts { answered, failed }
    }

    #[test]
    fn the_chance_is_that_of_drawing_balls_from_an_urn() {
        // 5 of 5 black ones among 19: 1 in 11,628. And 2 of 4 in 2 of 8 draws: 6 in 70.
        assert!((chance_if_alike(attempts(0, 5), attempts(14, 0)) - 1.0 / 11_628.0).abs() < 1e-12);
        assert!((chance_if_alike(attempts(2, 2), attempts(2, 2)) - 36.0 / 70.0).abs() < 1e-12);
        assert!((chance_if_alike(attempts(0, 0), attempts(7, 3)) - 1.0).abs() < 1e-12);
    }
}
