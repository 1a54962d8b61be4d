//! Sticky choices: the same client goes to the same backend, without anything being remembered.
//!
//! Weighted rendezvous hashing. Each backend b draws u_b in (0,1) from a hash of the client's key and the
//! backend's name, and the client goes to the b with the smallest `-ln(u_b) / w_b`. That is a race of
//! exponential clocks with rates w_b, so b wins with probability exactly w_b / sum(w), for any number of backends
//! and any fractions. Raising w_b only speeds up b's own clock: clients move to b and nowhere else.

use std::time::Duration;

use http::HeaderName;
use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hasher;

use super::Weight;

/// By what a service recognises its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sticky {
    /// A signed random id in a cookie of this name, set by us on every arm alike.
    Cookie { name: String, max_age: Duration },
    /// The value of a header; a request without it is split at random.
    Header(HeaderName),
    /// The client's address, cut to this many leading bits.
    Network { ipv4_bits: u8, ipv6_bits: u8 },
}

/// What one client is to one service: a hash of its id, salted with the service's name so that the same clients
/// are not the guinea pigs of every service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientKey(u64);

impl ClientKey {
    /// Hash of `id` for the service called `salt`. SipHash-1-3 with a fixed key, because every process and
    /// every version must agree on it.
    #[must_use]
    pub fn new(salt: &str, id: &[u8]) -> Self {
        Self(hash(salt.as_bytes(), id))
    }

    /// The hash itself.
    #[must_use]
    pub fn value(self) -> u64 {
        self.0
    }

    /// What this client draws, once and for all, for a purpose that has nothing to do with its backend.
    #[must_use]
    pub fn draw(self, purpose: &str) -> u64 {
        mix(self.0 ^ hash(b"draw", purpose.as_bytes()))
    }
}

/// One backend in the race: the hash of its name, and its weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arm {
    hash: u64,
    weight: f64,
}

impl Arm {
    #[must_use]
    pub fn new(name: &str, weight: Weight) -> Self {
        Self { hash: hash(b"backend", name.as_bytes()), weight: weight.value() }
    }
}

/// The index of the arm that this client belongs to. `None` when no arm has a weight above zero.
#[must_use]
pub fn choose(arms: &[Arm], client: ClientKey) -> Option<usize> {
    let mut best = None;
    let mut best_time = f64::INFINITY;
    for (index, arm) in arms.iter().enumerate() {
        let time = -unit_interval(mix(client.0 ^ arm.hash)).ln() / arm.weight;
        // A weight next to nothing makes for an infinite time; its clients are somebody's, too.
        if time < best_time || (best.is_none() && arm.weight > 0.0) {
            best = Some(index);
            best_time = time;
        }
    }
    best
}

fn hash(salt: &[u8], id: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0x7469_6465_6761_7465, salt.len() as u64);
    hasher.write(salt);
    hasher.write(id);
    hasher.finish128().h1
}

/// SplitMix64's finaliser: every output bit depends on every input bit.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The middle of one of 2^52 equal cells of (0,1): never 0, whose logarithm is infinite, and never 1.
fn unit_interval(x: u64) -> f64 {
    ((x >> 12) as f64 + 0.5) / (1u64 << 52) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn arms(weights: &[(&str, f64)]) -> Vec<Arm> {
        weights.iter().map(|(name, w)| Arm::new(name, Weight::new(*w).unwrap())).collect()
    }

    fn client(n: u32) -> ClientKey {
        ClientKey::new("shop", &n.to_le_bytes())
    }

    fn shares(arms: &[Arm], clients: u32) -> Vec<u32> {
        let mut counts = vec![0; arms.len()];
        for n in 0..clients {
            counts[choose(arms, client(n)).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn clients_follow_the_weights_by_chi_square() {
        let weights = [("blue", 89.5), ("green", 10.0), ("canary", 0.5)];
        let counts = shares(&arms(&weights), 400_000);
        let chi: f64 =
            counts.iter().zip(weights).map(|(c, (_, w))| (f64::from(*c) - 4_000.0 * w).powi(2) / (4_000.0 * w)).sum();
        // 0.999 quantile of chi-square with 2 degrees of freedom.
        assert!(chi < 13.82, "{counts:?}");
    }

    #[test]
    fn a_growing_weight_only_adds_clients_over_a_ramp_of_three_backends() {
        let ramp = [0.0, 0.1, 1.0, 5.0, 25.0, 50.0, 90.0, 400.0];
        for n in 0..20_000 {
            let mut before = None;
            for canary in ramp {
                let now = choose(&arms(&[("blue", 60.0), ("green", 30.0), ("canary", canary)]), client(n)).unwrap();
                if let Some(before) = before
                    && before != now
                {
                    assert_eq!(now, 2, "client {n} moved from {before} to {now} as canary grew to {canary}");
                }
                before = Some(now);
            }
        }
    }

    #[test]
    fn services_choose_their_guinea_pigs_independently() {
        let arms = arms(&[("blue", 90.0), ("canary", 10.0)]);
        let both = (0..100_000u32)
            .filter(|n| ["shop", "cart"].iter().all(|s| choose(&arms, ClientKey::new(s, &n.to_le_bytes())) == Some(1)))
            .count();
        // 1 % of 100,000; four standard deviations are 126.
        assert!((874..=1126).contains(&both), "{both}");
    }

    #[test]
    fn an_arm_without_weight_is_never_chosen() {
        assert!((0..10_000).all(|n| choose(&arms(&[("blue", 0.0), ("green", 1e-6)]), client(n)) == Some(1)));
        assert_eq!(choose(&arms(&[("blue", 0.0)]), client(1)), None);
        assert_eq!(choose(&[], client(1)), None);
        assert_eq!(choose(&arms(&[("blue", 0.0), ("green", 1e-310)]), client(1)), Some(1));
    }

    #[test]
    fn a_client_keeps_its_backend_across_versions_of_this_program() {
        // Frozen values: changing the hash would move every client of every user at an upgrade.
        let arms = arms(&[("blue", 1.0), ("green", 1.0), ("canary", 1.0)]);
        let chosen: Vec<_> = (0..12).map(|n| choose(&arms, client(n)).unwrap()).collect();
        assert_eq!(chosen, FROZEN);
    }

    const FROZEN: [usize; 12] = [0, 0, 2, 2, 0, 2, 0, 0, 2, 2, 1, 0];

    /// Weights as people write them, and as nobody should.
    fn a_weight() -> impl Strategy<Value = f64> {
        prop_oneof![
            8 => (0u32..=1000).prop_map(|tenths| f64::from(tenths) / 10.0),
            1 => Just(0.0),
            1 => -9.0..=9.0f64,
            1 => -320.0..=-300.0f64,
        ]
        .prop_map(|weight| if weight < 0.0 { 10f64.powf(weight) } else { weight })
    }

    /// Backends called 0, 1, 2 and so on.
    fn numbered(weights: &[f64]) -> Vec<Arm> {
        let weights = weights.iter().enumerate();
        weights.map(|(name, weight)| Arm::new(&name.to_string(), Weight::new(*weight).unwrap())).collect()
    }

    /// How far a count of `n` draws may be from what is expected, or chance has it one time in 10^12 (Bernstein).
    fn slack(n: f64, share: f64) -> f64 {
        let log = 2e12f64.ln();
        log / 3.0 + (log * log / 9.0 + 2.0 * log * n * share * (1.0 - share)).sqrt()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_raised_weight_adds_clients_and_no_other_client_moves(
            weights in prop::collection::vec(a_weight(), 1..6),
            raised: prop::sample::Index,
            more in prop_oneof![0.0..100.0f64, -320.0..-300.0f64],
            clients: [u32; 200],
        ) {
            let raised = raised.index(weights.len());
            let mut after = weights.clone();
            after[raised] += if more < 0.0 { 10f64.powf(more) } else { more };
            let (before, after) = (numbered(&weights), numbered(&after));
            for n in clients {
                let (was, is) = (choose(&before, client(n)), choose(&after, client(n)));
                prop_assert!(is == was || is == Some(raised), "client {} went from {:?} to {:?}", n, was, is);
            }
        }

        #[test]
        fn everybody_has_a_backend_whose_weight_is_not_zero(
            weights in prop::collection::vec(a_weight(), 0..6), n: u32,
        ) {
            match choose(&numbered(&weights), client(n)) {
                Some(chosen) => prop_assert!(weights[chosen] > 0.0),
                None => prop_assert!(weights.iter().all(|weight| *weight == 0.0)),
            }
        }

        #[test]
        fn neither_order_nor_scale_decides(
            weights in prop::collection::vec(0.1..100.0f64, 1..6), exponent in -20..20i32, n: u32,
        ) {
            let arms = numbered(&weights);
            let reversed: Vec<_> = arms.iter().rev().copied().collect();
            // A power of two changes no digit.
            let scaled: Vec<_> = weights.iter().map(|weight| weight * 2f64.powi(exponent)).collect();
            let chosen = choose(&arms, client(n)).unwrap();
            prop_assert_eq!(choose(&reversed, client(n)), Some(arms.len() - 1 - chosen));
            prop_assert_eq!(choose(&numbered(&scaled), client(n)), Some(chosen));
        }

        #[test]
        fn each_backend_gets_its_share_of_clients(
            weights in prop::collection::vec(0.01..100.0f64, 1..6), first in 0..u32::MAX - 5_000,
        ) {
            let arms = numbered(&weights);
            let total: f64 = weights.iter().sum();
            let mut counts = vec![0u32; weights.len()];
            for n in first..first + 5_000 {
                counts[choose(&arms, client(n)).unwrap()] += 1;
            }
            for (count, weight) in counts.iter().zip(&weights) {
                let share = weight / total;
                let far = (f64::from(*count) - 5_000.0 * share).abs();
                prop_assert!(far <= slack(5_000.0, share), "{:?} for {:?}", counts, weights);
            }
        }
    }
}
