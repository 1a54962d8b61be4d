//! Choosing an endpoint: the better of two random ones. Picking the best of all would send every worker's next
//! request to the same endpoint; the better of two is nearly as good and herds nobody.

use std::rc::Rc;

use tokio::time::Instant;

use super::LocalEndpoint;

/// The endpoint for one attempt; `draw` gives a number uniform over all `u64`, and is asked only when there is a
/// choice. Those to `avoid` were tried before for the same request; they, those that couldn't be connected to a moment
/// ago, and those at their limit are passed over while there is another. `None` when there is no endpoint.
#[must_use]
pub fn pick<'a>(
    endpoints: &'a [Rc<LocalEndpoint>],
    avoid: &[Rc<LocalEndpoint>],
    draw: impl FnOnce() -> u64,
) -> Option<&'a Rc<LocalEndpoint>> {
    if endpoints.len() < 2 {
        return endpoints.first();
    }
    let (draw, now) = (draw(), Instant::now());
    if avoid.is_empty() {
        let first = scale(draw & 0xffff_ffff_0000_0000, endpoints.len());
        let second = (first + 1 + scale(draw << 32, endpoints.len() - 1)) % endpoints.len();
        let (first, second) = (&endpoints[first], &endpoints[second]);
        if is_open(first, now) && is_open(second, now) {
            return Some(if second.is_better_than(first, now) { second } else { first });
        }
    }
    let untried = |e: &&'a Rc<LocalEndpoint>| !avoid.iter().any(|tried| Rc::ptr_eq(tried, e));
    any(endpoints.iter().filter(|e| untried(e) && is_open(e, now)), draw)
        .or_else(|| any(endpoints.iter().filter(untried), draw))
        .or_else(|| any(endpoints.iter(), draw))
}

/// Whether there is an endpoint besides those that were tried before for the same request. To send a request again is
/// worth it only where somebody is there to take it: endpoints that couldn't be connected to a moment
/// ago, or are at their limit, count only with `held_back`.
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
    !endpoint.is_held_back(now) && endpoint.has_room()
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
    async fn endpoints_that_refuse_are_passed_over_while_there_is_another() {
        let endpoints: Vec<_> = (0..4).map(endpoint).collect();
        endpoints[0].refused(Instant::now(), &"refused");
        endpoints[2].refused(Instant::now(), &"refused");
        let counts = counts(&endpoints, &[]);
        assert_eq!((counts[0], counts[2]), (0, 0));
        assert!(counts[1] > 13_000 && counts[3] > 13_000, "{counts:?}");
        for endpoint in &endpoints {
            endpoint.refused(Instant::now(), &"refused");
        }
        assert!(pick(&endpoints, &[], || 0).is_some());
    }
}
