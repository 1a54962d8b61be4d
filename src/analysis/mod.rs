//! Statistics for judging one backend against another. Pure: no I/O, no clock, no randomness; every decision they
//! lead to can be made again from the numbers in its evidence.
//!
//! All of it is valid at any time: whoever looks after every single failure, and stops when it suits them, is wrong no
//! more often than the level says. That is what lets a guard watch for months and still drain within a few failures.

mod alike;
mod bound;
mod comparison;
mod discordant;
mod gamma;
mod ratio;

pub use alike::{Attempts, chance_if_alike};
pub use bound::ProportionBound;
pub use comparison::{Comparison, Side, average};
pub use discordant::Discordance;
pub use ratio::RatioTally;

/// Alternatives that a comparison is prepared for: how many times worse than tolerated the candidate may be. A mixture
/// over them needs no guess, and costs a factor of nine in evidence, which is two failures.
const ALTERNATIVES: [f64; 9] = [1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0, 1000.0];

/// Probability that a failure is the candidate's, which gets `share` of the two sides' requests and fails `ratio`
/// times as often as stable.
fn candidate_probability(share: f64, ratio: f64) -> f64 {
    share * ratio / (share * ratio + 1.0 - share)
}

/// What one failure does to the evidence for a candidate that fails `alternative` times as often as tolerated, when up
/// to `tolerated` times as often as stable is fine.
fn factor(side: Side, share: f64, tolerated: f64, alternative: f64) -> f64 {
    let if_tolerable = candidate_probability(share, tolerated);
    let if_worse = candidate_probability(share, tolerated * alternative);
    match side {
        Side::Candidate => if_worse / if_tolerable,
        Side::Stable => (1.0 - if_worse) / (1.0 - if_tolerable),
    }
}
