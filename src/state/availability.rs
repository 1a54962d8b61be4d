//! Weights that follow health: a backend without an available endpoint yields its share to the others.
//!
//! While it recovers as a whole, its share grows with its endpoints'. A small backend that a larger one's share falls
//! to is protected from it by a limit. Where every backend has failed, all of them are used as configured: at worst the
//! checks are wrong, and refusing everybody would make sure of the outage.

use super::Backend;
use super::effective::{Claim, effective};
use crate::config::BackendLimits;
use crate::model::Weight;

/// What a backend can take that had few requests of its own: a candidate at 1 % of a small service has one or two
/// under way at its peak, and even an application server of a few threads takes sixteen.
const OVERFLOW_MIN: u32 = 16;
/// How many times its recent peak a backend may have under way.
const OVERFLOW_FACTOR: u32 = 4;
/// A recovering backend's share grows in so many steps: each is a new snapshot.
const RAMP_STEPS: f64 = 10.0;

/// Sets the weights that requests see, and the limits; whether no backend that may be used has an endpoint that is
/// available.
pub(super) fn set_effective(backends: &mut [Backend], stable: usize) -> bool {
    let ramps: Vec<Option<f64>> = backends.iter().map(ramp).collect();
    // Alone a backend has everything, however little it asks for.
    let ramped = ramps.iter().flatten().count() > 1;
    let claim = |(backend, ramp): (&'_ Backend, &Option<f64>)| {
        (scaled(backend.wanted, ramp.filter(|_| ramped)), ramp.is_some())
    };
    let claimed: Vec<_> = backends.iter().zip(&ramps).map(claim).collect();
    let weights = weights(backends, &claimed, stable);
    let failed = weights.iter().all(|weight| weight.is_zero());
    if failed {
        let claimed: Vec<_> = backends.iter().map(|b| (b.wanted, !b.endpoints.is_empty())).collect();
        let weights = self::weights(backends, &claimed, stable);
        set(backends, &weights);
    } else {
        set(backends, &weights);
        limit_overflow(backends, &ramps);
    }
    failed && backends.iter().any(|backend| !backend.effective.is_zero())
}

/// `claimed`: what each asks for, and whether it has somebody to answer.
fn weights(backends: &[Backend], claimed: &[(Weight, bool)], stable: usize) -> Vec<Weight> {
    let claims = backends.iter().zip(claimed);
    let claims = claims.map(|(b, (wanted, available))| Claim {
        wanted: *wanted,
        available: *available,
        drain: b.drain.as_deref(),
    });
    effective(&claims.collect::<Vec<_>>(), stable)
}

fn set(backends: &mut [Backend], weights: &[Weight]) {
    backends.iter_mut().zip(weights).for_each(|(backend, weight)| backend.effective = *weight);
}

/// The part of its share that the backend's best endpoint may have; `None` when none is available.
fn ramp(backend: &Backend) -> Option<f64> {
    let available = backend.endpoints.iter().filter(|endpoint| endpoint.health.is_available());
    available.map(|endpoint| endpoint.health.ramp()).reduce(f64::max)
}

fn scaled(wanted: Weight, ramp: Option<f64>) -> Weight {
    let ramp = (ramp.unwrap_or(1.0) * RAMP_STEPS).floor().max(1.0) / RAMP_STEPS;
    if ramp >= 1.0 { wanted } else { Weight::new(wanted.value() * ramp).unwrap_or(wanted) }
}

/// What is configured, or the usual line, and no more requests at once than `limit`.
fn lowered(limits: Option<BackendLimits>, limit: u32) -> BackendLimits {
    let limits = limits.unwrap_or_default();
    BackendLimits { requests: Some(limits.requests.map_or(limit, |own| own.min(limit))), ..limits }
}

/// Limits every backend that gets the share of a larger one.
fn limit_overflow(backends: &mut [Backend], ramps: &[Option<f64>]) {
    let failed = backends.iter().zip(ramps).filter(|(_, ramp)| ramp.is_none());
    let largest = failed.map(|(backend, _)| backend.wanted.value()).fold(0.0, f64::max);
    for backend in backends.iter_mut().filter(|b| !b.effective.is_zero() && b.wanted.value() < largest) {
        let usual = backend.watch.peak_in_flight().saturating_mul(OVERFLOW_FACTOR);
        let limit = usual.max(OVERFLOW_MIN);
        backend.overflow_limit = Some(limit);
        backend.limits = Some(lowered(backend.limits, limit));
    }
}
