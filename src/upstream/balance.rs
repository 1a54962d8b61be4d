//! Choosing an endpoint: the better of two random ones. Picking the best of all would send every worker's next
//! request to the same endpoint; the better of two is nearly as good and herds nobody.

use std::rc::Rc;

use tokio::time::Instant;

use super::LocalEndpoint;

/// The endpoint for one attempt; `draw` gives a number uniform over all `u64`, and is asked only when there is a
/// choice. Those to `avoid` were tried before for the same request; they, those that aren't available and those that
/// couldn't be connected to a moment ago and those at their limit are passed over while there is another: where all are bad, being wrong about
/// one of them is the best that can happen. `None` when there is no endpoint.
///
/// An endpoint whose ejection is over is chosen for the first request that comes across it, and for no other until that
/// one has ended.
#[must_use]
pub fn pick<'a>(
    endpoints: &'a [Rc<LocalEndpoint>],
    avoid: &[Rc<LocalEndpoint>],
    draw: impl FnOnce() -> u64,
) -> Option<&'a Rc<LocalEndpoint>> {
    if endpoints.len() < 2 {
        return endpoints.first().inspect(|only| {
            only.takes_trial();
        });
    }
    let (draw, now) = (draw(), Instant::now());
    if avoid.is_empty() {
        let first = scale(draw & 0xffff_ffff_0000_0000, endpoints.len());
        let second = (first + 1 + scale(draw << 32, endpoints.len() - 1)) % endpoints.len();
        let (first, second) = (&endpoints[first], &endpoints[second]);
        let plain = |e: &LocalEndpoint| e.endpoint.health.is_plain() && is_open(e, now);
        if plain(first) && plain(second) {
            return Some(if second.is_better_than(first, now) { second } else { first });
        }
        if is_open(first, now) && is_open(second, now) {
            return Some(if is_first(first, second, draw) { first } else { second });
        }
        if let Some(tried) = endpoints.iter().find(|e| e.takes_trial()) {
            return Some(tried);
        }
    }
    let untried = |e: &&'a Rc<LocalEndpoint>| !avoid.iter().any(|tried| Rc::ptr_eq(tried, e));
    let good = |e: &&'a Rc<LocalEndpoint>| untried(e) && is_open(e, now);
    better_of_two(endpoints.iter().filter(good), draw, now)
        .or_else(|| any(endpoints.iter().filter(untried), draw))
        .or_else(|| any(endpoints.iter(), draw))
}

/// Whether there is an endpoint besides those that were tried before for the same request. To send a request again is
/// worth it only where somebody is there to take it: endpoints that aren't available, couldn't be connected to a moment
/// ago or are at their limit count only with `held_back`.
#[must_use]
pub fn has_other(endpoints: &[Rc<LocalEndpoint>], tried: &[Rc<LocalEndpoint>], held_back: bool) -> bool {
    if endpoints.is_empty() {
        return false;
    }
    let now = Instant::now();
    let mut untried = endpoints.iter().filter(|e| !tried.iter().any(|tried| Rc::ptr_eq(tried, e)));
    untried.any(|e| held_back || is_open(e, now))
}

fn is_open(endpoint: &LocalEndpoint, now: Instant) -> bool {
    endpoint.endpoint.health.is_available() && !endpoint.is_held_back(now) && endpoint.has_room()
}

/// The choice among two of which one recovers, at least. It has few requests and would nearly always be the better one,
/// so chance decides: it gets the part of its share that it is to have.
fn is_first(first: &LocalEndpoint, second: &LocalEndpoint, draw: u64) -> bool {
    let share = 0.5 + (first.endpoint.health.ramp() - second.endpoint.health.ramp()) / 2.0;
    // The bits of the draw have chosen the two; these are as good as new ones.
    let fresh = draw.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    fresh as f64 / f64::from(u32::MAX) < share
}

/// The better of two, each drawn by the part of its share that it is to get.
fn better_of_two<'a>(
    candidates: impl Iterator<Item = &'a Rc<LocalEndpoint>> + Clone,
    draw: u64,
    now: Instant,
) -> Option<&'a Rc<LocalEndpoint>> {
    let first = by_ramp(candidates.clone(), draw & 0xffff_ffff_0000_0000)?;
    let second = by_ramp(candidates.filter(|e| !Rc::ptr_eq(e, first)), draw << 32);
    // As in `is_first`.
    let settled = |e: &&Rc<LocalEndpoint>| e.endpoint.health.is_plain();
    let both = settled(&first);
    Some(second.filter(|second| both && settled(second) && second.is_better_than(first, now)).unwrap_or(first))
}

fn by_ramp<'a>(
    candidates: impl Iterator<Item = &'a Rc<LocalEndpoint>> + Clone,
    draw: u64,
) -> Option<&'a Rc<LocalEndpoint>> {
    let ramp = |e: &Rc<LocalEndpoint>| e.endpoint.health.ramp();
    let mut left = candidates.clone().map(ramp).sum::<f64>() * (draw as f64 / u64::MAX as f64);
    let drawn = candidates.clone().find(|e| {
        left -= ramp(e);
        left < 0.0
    });
    // Rounding, or a share that has grown meanwhile.
    drawn.or_else(|| candidates.last())
}

/// One of `candidates`, all alike.
fn any<T>(candidates: impl Iterator<Item = T> + Clone, draw: u64) -> Option<T> {
    let count = candidates.clone().count();
    candidates.into_iter().nth(scale(draw, count))
}

/// Maps a uniform `u64` to 0..n without division.
fn scale(draw: u64, n: usize) -> usize {
    ((u128::from(draw) * n as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::super::local::tests::endpoint;
    use super::super::{AttemptEnd, ConnectError};
    use super::*;

    fn counts(endpoints: &[Rc<LocalEndpoint>], avoid: &[Rc<LocalEndpoint>]) -> Vec<u32> {
        let mut rng = StdRng::seed_from_u64(3);
        let mut counts = vec![0; endpoints.len()];
        for _ in 0..30_000 {
            let picked = pick(endpoints, avoid, || rng.next_u64()).unwrap();
            counts[endpoints.iter().position(|e| Rc::ptr_eq(e, picked)).unwrap()] += 1;
        }
        counts
    }

    #[tokio::test(start_paused = true)]
    async fn equal_endpoints_get_equal_shares() {
        let endpoints: Vec<_> = (0..3).map(endpoint).collect();
        assert!(counts(&endpoints, &[]).iter().all(|c| (9_500..10_500).contains(c)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_most_loaded_endpoint_is_never_the_better_of_two() {
        let endpoints: Vec<_> = (0..3).map(endpoint).collect();
        (0..5).for_each(|_| endpoints[1].begin());
        assert_eq!(counts(&endpoints, &[])[1], 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_failed_this_request_is_passed_over_while_there_is_another() {
        let endpoints: Vec<_> = (0..3).map(endpoint).collect();
        let counts_after = |tried: &[Rc<LocalEndpoint>]| counts(&endpoints, tried);
        assert_eq!(counts_after(&endpoints[2..])[2], 0);
        assert_eq!(counts_after(&endpoints[1..]), [30_000, 0, 0]);
        assert!(counts_after(&endpoints).iter().all(|c| (9_500..10_500).contains(c)));
        assert!(pick(&endpoints[..1], &endpoints[..1], || 0).is_some());
        assert!(pick(&[], &[], || 0).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_available_is_passed_over_while_there_is_another() {
        let endpoints: Vec<_> = (0..4).map(endpoint).collect();
        endpoints[0].endpoint.health.set_check_failed(true);
        endpoints[1].endpoint.health.eject();
        endpoints[2].endpoint.health.set_drained(true);
        assert_eq!(counts(&endpoints, &[]), [0, 0, 0, 30_000]);
        endpoints[3].endpoint.health.set_check_failed(true);
        assert!(counts(&endpoints, &[]).iter().all(|c| (7_000..8_000).contains(c)), "all bad: all are used");
    }

    #[tokio::test(start_paused = true)]
    async fn with_one_away_the_others_are_still_chosen_by_their_load() {
        let endpoints: Vec<_> = (0..4).map(endpoint).collect();
        endpoints[0].endpoint.health.eject();
        (0..5).for_each(|_| endpoints[1].begin());
        let counts = counts(&endpoints, &[]);
        // Drawn together with the ejected one it would be asked, if draws weren't repeated among the others.
        assert_eq!((counts[0], counts[1]), (0, 0), "{counts:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_whose_ejection_is_over_gets_one_request() {
        let endpoints: Vec<_> = (0..3).map(endpoint).collect();
        let ejected = &endpoints[1];
        ejected.endpoint.health.eject();
        ejected.endpoint.health.offer_trial();
        let mut rng = StdRng::seed_from_u64(3);
        let mut asked = (0..1_000).map(|_| pick(&endpoints, &[], || rng.next_u64()).unwrap());
        let trial = asked.by_ref().find_map(|endpoint| endpoint.begin_trial());
        assert!(trial.is_some());
        assert!(asked.all(|endpoint| !Rc::ptr_eq(endpoint, ejected)));
        ejected.ended(AttemptEnd::Answered, trial);
        assert_eq!(ejected.endpoint.health.trial_outcome(), Some(true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_recovered_endpoints_share_grows_evenly() {
        let endpoints: Vec<_> = (0..3).map(endpoint).collect();
        let health = &endpoints[0].endpoint.health;
        health.configure(None, std::time::Duration::from_secs(10));
        health.begin_recovery();
        for (seconds, share) in [(0, 0.1 / 3.0), (5, 0.5 / 3.0), (4, 0.9 / 3.0)] {
            tokio::time::advance(std::time::Duration::from_secs(seconds)).await;
            let counts = counts(&endpoints, &[]);
            let found = f64::from(counts[0]) / 30_000.0;
            assert!((found - share).abs() < 0.01, "{counts:?} {share}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_that_refuse_are_passed_over_while_there_is_another() {
        let endpoints: Vec<_> = (0..4).map(endpoint).collect();
        endpoints[0].refused(Instant::now(), &ConnectError::Timeout, None);
        endpoints[2].refused(Instant::now(), &ConnectError::Timeout, None);
        let counts = counts(&endpoints, &[]);
        assert_eq!((counts[0], counts[2]), (0, 0));
        assert!(counts[1] > 13_000 && counts[3] > 13_000, "{counts:?}");
        for endpoint in &endpoints {
            endpoint.refused(Instant::now(), &ConnectError::Timeout, None);
        }
        assert!(pick(&endpoints, &[], || 0).is_some());
    }
}
