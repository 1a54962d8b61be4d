//! Choosing an endpoint: the better of two random ones. Picking the best of all would send every worker's next
//! request to the same endpoint; the better of two is nearly as good and herds nobody.

use std::rc::Rc;

use tokio::time::Instant;

use super::LocalEndpoint;

/// The endpoint for one attempt; `draw` gives a number uniform over all `u64`, and is asked only when there is a
/// choice. `avoid` was tried before and is passed over
/// when there is another. `None` when there is no endpoint.
#[must_use]
pub fn pick<'a>(
    endpoints: &'a [Rc<LocalEndpoint>],
    avoid: Option<&Rc<LocalEndpoint>>,
    draw: impl FnOnce() -> u64,
) -> Option<&'a Rc<LocalEndpoint>> {
    let avoided = avoid.and_then(|avoid| endpoints.iter().position(|e| Rc::ptr_eq(e, avoid)));
    match (endpoints, avoided) {
        ([], _) => None,
        ([only], _) => Some(only),
        (_, Some(avoided)) => {
            let other = (avoided + 1 + scale(draw(), endpoints.len() - 1)) % endpoints.len();
            Some(&endpoints[other])
        }
        (_, None) => {
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

    fn counts(endpoints: &[Rc<LocalEndpoint>], avoid: Option<&Rc<LocalEndpoint>>) -> Vec<u32> {
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
        assert!(counts(&endpoints, None).iter().all(|c| (9_500..10_500).contains(c)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_most_loaded_endpoint_is_never_the_better_of_two() {
        let endpoints: Vec<_> = (0..3).map(endpoint).collect();
        (0..5).for_each(|_| endpoints[1].begin());
        assert_eq!(counts(&endpoints, None)[1], 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_failed_this_request_is_passed_over_while_there_is_another() {
        let endpoints: Vec<_> = (0..3).map(endpoint).collect();
        assert_eq!(counts(&endpoints, Some(&endpoints[2]))[2], 0);
        assert!(pick(&endpoints[..1], Some(&endpoints[0]), || 0).is_some());
        assert!(pick(&[], None, || 0).is_none());
    }
}
