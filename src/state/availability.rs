//! Weights that follow health: a backend without an available endpoint yields its share to the others.
//!
//! While it recovers as a whole, its share grows with its endpoints'. A small backend that a larger one's share falls
//! to is protected from it by a limit. Where every backend has failed, all of them are used as configured: at worst the
//! checks are wrong, and refusing everybody would make sure of the outage.

use super::Backend;
use crate::model::Weight;

/// What a backend can take that had few requests of its own: a candidate at 1 % of a small service has one or two
/// under way at its peak, and even an application server of a few threads takes sixteen.
const OVERFLOW_MIN: u32 = 16;
/// How many times its recent peak a backend may have under way.
const OVERFLOW_FACTOR: u32 = 4;
/// A recovering backend's share grows in so many steps: each is a new snapshot.
const RAMP_STEPS: f64 = 10.0;

/// Sets the effective weights and limits of a service's backends; whether none with a weight has an endpoint that is
/// available.
pub(super) fn yield_shares(backends: &mut [Backend]) -> bool {
    let ramps: Vec<Option<f64>> = backends.iter().map(ramp).collect();
    let live = |(backend, ramp): (&Backend, &Option<f64>)| !backend.wanted.is_zero() && ramp.is_some();
    let living = backends.iter().zip(&ramps).filter(|pair| live((pair.0, pair.1))).count();
    let any = living > 0;
    for (backend, ramp) in backends.iter_mut().zip(&ramps) {
        backend.effective = match ramp {
            // Alone it has everything, however little it wants.
            Some(ramp) if living > 1 => scaled(backend.wanted, *ramp),
            None if any => Weight::ZERO,
            _ if backend.endpoints.is_empty() => Weight::ZERO,
            _ => backend.wanted,
        };
    }
    let exist = |backend: &Backend| !backend.wanted.is_zero() && !backend.endpoints.is_empty();
    if any {
        limit_overflow(backends);
    }
    !any && backends.iter().any(exist)
}

/// The part of its share that the backend's best endpoint may have; `None` when none is available.
fn ramp(backend: &Backend) -> Option<f64> {
    let available = backend.endpoints.iter().filter(|endpoint| endpoint.health.is_available());
    available.map(|endpoint| endpoint.health.ramp()).reduce(f64::max)
}

fn scaled(wanted: Weight, ramp: f64) -> Weight {
    let ramp = (ramp * RAMP_STEPS).floor().max(1.0) / RAMP_STEPS;
    if ramp >= 1.0 { wanted } else { Weight::new(wanted.value() * ramp).unwrap_or(wanted) }
}

/// Limits every backend that gets the share of a larger one.
fn limit_overflow(backends: &mut [Backend]) {
    let yielding = backends.iter().filter(|b| b.effective.is_zero()).map(|b| b.wanted.value());
    let largest = yielding.fold(0.0, f64::max);
    for backend in backends.iter_mut().filter(|b| !b.effective.is_zero() && b.wanted.value() < largest) {
        let usual = backend.watch.peak_in_flight().saturating_mul(OVERFLOW_FACTOR);
        backend.overflow_limit = Some(usual.max(OVERFLOW_MIN));
    }
}
