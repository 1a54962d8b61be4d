//! Choosing an endpoint: the better of two random ones. Picking the best of all would send every worker's next
//! request to the same endpoint; the better of two is nearly as good and herds nobody.

use std::rc::Rc;

use tokio::time::Instant;

use super::LocalEndpoint;

/// The endpoint for one attempt; `draw` gives a number uniform over all `u64`, and is asked only when there is a
/// choice. Those to `avoid` were tried before and are passed over
/// while there is another. `None` when there is no endpoint.
#[must_use]
pub fn pick<'a>(
    endpoints: &'a [Rc<LocalEndpoint>],
    avoid: &[Rc<LocalEndpoint>],
    draw: impl FnOnce() -> u64,
) -> Option<&'a Rc<LocalEndpoint>> {
    let untried = |endpoint: &&Rc<LocalEndpoint>| !avoid.iter().any(|tried| Rc::ptr_eq(tried, endpoint));
    match (endpoints, avoid) {
        ([], _) => None,
        ([only], _) => Some(only),
        (_, [_, ..]) => {
            let (draw, others) = (draw(), endpoints.iter().filter(untried).count());
            let other = endpoints.iter().filter(untried).nth(scale(draw, others));
            other.or_else(|| endpoints.get(scale(draw, endpoints.len())))
        }
        (_, []) => {
            let draw = draw();
            let first = scale(draw & 0xffff_ffff_0000_0000, endpoints.len());
            let second = (first + 1 + scale(draw << 32, endpoints.len() - 1)) % endpoints.len();
            let (first, second) = (&endpoints[first], &endpoints[second]);
            let now = Instant::now();
            Some(if second.is_better_than(first, now) { second } else { first })
        }
    }
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
}
