//! How many requests each client may make: token buckets, shared by all workers.
//!
//! governor does the arithmetic (GCRA: one number a client, the time at which its bucket will be full again); the table
//! below holds the numbers. It is of bounded size, and nobody is pushed out of it: once it is full, clients that
//! aren't in it share one bucket. A flood of made-up clients so costs those that come during it their own allowance,
//! and nobody else anything. Buckets that are full again are as good as none and are taken out every second.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::ShrinkableKeyedStateStore;
use governor::{Quota, RateLimiter};
use http::HeaderValue;
use siphasher::sip::SipHasher13;

use crate::config::{RateLimitBy, RateLimitConfig};
use crate::model::{RequestFacts, leading_bits};

/// Parts of a table that are locked by themselves, for a few dozen nanoseconds each time.
const SHARDS: usize = 64;
/// Bits of addresses that tell clients apart who should have shown something else.
const FALLBACK_BITS: (u8, u8) = (32, 64);

/// One limit of one service.
#[derive(Debug)]
pub struct RateLimit<C: Clock = MonotonicClock> {
    config: RateLimitConfig,
    limiter: RateLimiter<u64, Table, C, NoOpMiddleware<C::Instant>>,
    table: Arc<Buckets>,
    /// Random, so that nobody outside can find two clients with one hash.
    hash_keys: [u64; 2],
    /// The value of `RateLimit-Policy`.
    policy: HeaderValue,
}

/// A client has used up its allowance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted {
    /// Whole seconds until it may ask again, at least one.
    pub retry_after_s: u64,
}

impl RateLimit {
    #[must_use]
    pub fn new(config: &RateLimitConfig) -> Self {
        Self::with_clock(config, MonotonicClock)
    }
}

impl<C: Clock> RateLimit<C> {
    fn with_clock(config: &RateLimitConfig, clock: C) -> Self {
        let each = config.per / config.requests.get();
        let quota = Quota::with_period(each).expect("the configuration accepts no shorter spans");
        let table = Arc::new(Buckets::new(config.clients_max));
        Self {
            limiter: RateLimiter::new(quota.allow_burst(config.burst), Table(Arc::clone(&table)), clock),
            table,
            hash_keys: rand::random(),
            policy: policy(config),
            config: config.clone(),
        }
    }

    /// Counts a request against all of `limits`, or against none.
    ///
    /// # Errors
    /// The first limit in which nothing is left.
    pub fn take_all<'a>(limits: &'a [Arc<Self>], facts: &RequestFacts<'_>) -> Result<(), (&'a Self, Exhausted)> {
        for (index, limit) in limits.iter().enumerate() {
            if let Err(exhausted) = limit.take(facts) {
                // To ask all before the first is charged would let another worker take what was seen.
                limits[..index].iter().for_each(|charged| charged.give_back(facts));
                return Err((limit, exhausted));
            }
        }
        Ok(())
    }

    /// Counts a request against its client's allowance.
    ///
    /// # Errors
    /// When nothing of it is left.
    pub fn take(&self, facts: &RequestFacts<'_>) -> Result<(), Exhausted> {
        self.limiter.check_key(&self.client(facts)).map_err(|until| {
            let wait = until.wait_time_from(self.limiter.clock().now());
            Exhausted { retry_after_s: whole_seconds(wait) }
        })
    }

    /// Takes back what was just counted. A bucket is one time, so this is exact whatever was counted in between.
    fn give_back(&self, facts: &RequestFacts<'_>) {
        self.table.give_back(self.client(facts), Nanos::from(self.config.per / self.config.requests.get()));
    }

    #[must_use]
    pub fn policy(&self) -> &HeaderValue {
        &self.policy
    }

    /// Clients that are kept apart now.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.table.live.load(Ordering::Relaxed)
    }

    /// Requests whose client found no place in the table.
    #[must_use]
    pub fn overflows(&self) -> u64 {
        self.table.overflows.load(Ordering::Relaxed)
    }

    /// Forgets clients whose buckets are full again. Call it now and then.
    pub fn sweep(&self) {
        if self.clients() > 0 {
            self.limiter.retain_recent();
        }
    }

    fn client(&self, facts: &RequestFacts<'_>) -> u64 {
        let facts = *facts;
        // Whoever sends two values would be another client with each change of the one that the application ignores.
        let named = match &self.config.by {
            RateLimitBy::Header(name) => only(facts.headers.get_all(name).iter()).map(HeaderValue::as_bytes),
            RateLimitBy::Cookie(name) => only(facts.cookies(name)).map(str::as_bytes),
            RateLimitBy::Network { ipv4_bits, ipv6_bits } => {
                return self.hash_address(leading_bits(facts.client, *ipv4_bits, *ipv6_bits));
            }
        };
        match named {
            Some(name) => self.hash(b'n', name),
            None => self.hash_address(leading_bits(facts.client, FALLBACK_BITS.0, FALLBACK_BITS.1)),
        }
    }

    fn hash_address(&self, address: IpAddr) -> u64 {
        match address {
            IpAddr::V4(address) => self.hash(b'4', &address.octets()),
            IpAddr::V6(address) => self.hash(b'6', &address.octets()),
        }
    }

    fn hash(&self, kind: u8, client: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.hash_keys[0], self.hash_keys[1]);
        hasher.write_u8(kind);
        hasher.write(client);
        hasher.finish()
    }
}

/// The only one there is.
fn only<T>(mut values: impl Iterator<Item = T>) -> Option<T> {
    values.next().filter(|_| values.next().is_none())
}

/// As in draft-ietf-httpapi-ratelimit-headers: the quota, and its window where that is of whole seconds.
fn policy(config: &RateLimitConfig) -> HeaderValue {
    let window = match (config.per.as_secs(), config.per.subsec_nanos()) {
        (seconds, 0) => format!(";w={seconds}"),
        _ => String::new(),
    };
    HeaderValue::try_from(format!("\"default\";q={}{window}", config.requests)).expect("numbers are plain ASCII")
}

fn whole_seconds(wait: Duration) -> u64 {
    wait.as_nanos().div_ceil(1_000_000_000).clamp(1, u64::MAX.into()) as u64
}

/// Times at which buckets will be full, in nanoseconds, by the hash of their client.
#[derive(Debug)]
struct Table(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    shards: Box<[Shard]>,
    live: AtomicUsize,
    clients_max: usize,
    /// Of all clients that found no place.
    shared: Mutex<Option<Nanos>>,
    overflows: AtomicU64,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(Mutex<HashMap<u64, Nanos, RandomState>>);

impl Buckets {
    fn new(clients_max: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            live: AtomicUsize::new(0),
            clients_max,
            shared: Mutex::default(),
            overflows: AtomicU64::new(0),
        }
    }

    /// Room for one more, if there is any.
    fn claim(&self) -> bool {
        let more = |live| (live < self.clients_max).then_some(live + 1);
        self.live.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

impl Buckets {
    /// Moves the time at which a client's bucket will be full back by one request. One that isn't in the table was
    /// counted in the shared bucket.
    fn give_back(&self, client: u64, each: Nanos) {
        if let Some(full_at) = lock(&self.shards[client as usize % SHARDS].0).get_mut(&client) {
            *full_at = full_at.saturating_sub(each);
            return;
        }
        if let Some(full_at) = &mut *lock(&self.shared) {
            *full_at = full_at.saturating_sub(each);
        }
    }
}

/// Nothing panics while a lock is held, and what is behind it is whole at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StateStore for Table {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, client: &u64, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let table = &*self.0;
        let mut shard = lock(&table.shards[*client as usize % SHARDS].0);
        match shard.entry(*client) {
            Entry::Occupied(mut known) => {
                let (outcome, full_at) = measure(Some(*known.get()))?;
                known.insert(full_at);
                Ok(outcome)
            }
            // The first request of a client is never refused.
            Entry::Vacant(place) if table.claim() => {
                let (outcome, full_at) = measure(None)?;
                place.insert(full_at);
                Ok(outcome)
            }
            Entry::Vacant(_) => {
                drop(shard);
                table.overflows.fetch_add(1, Ordering::Relaxed);
                let mut shared = lock(&table.shared);
                let (outcome, full_at) = measure(*shared)?;
                *shared = Some(full_at);
                Ok(outcome)
            }
        }
    }
}

impl ShrinkableKeyedStateStore<u64> for Table {
    fn retain_recent(&self, drop_below: Nanos) {
        for shard in &self.0.shards {
            let mut shard = lock(&shard.0);
            let before = shard.len();
            shard.retain(|_, full_at| *full_at > drop_below);
            self.0.live.fetch_sub(before - shard.len(), Ordering::Relaxed);
            // What a flood has blown up shrinks again.
            if shard.capacity() > 8 * shard.len().max(16) {
                shard.shrink_to_fit();
            }
        }
    }

    fn len(&self) -> usize {
        self.0.live.load(Ordering::Relaxed)
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;
    use http::{HeaderMap, Method};

    use super::*;

    fn config(requests: u32, per: Duration, burst: u32) -> RateLimitConfig {
        RateLimitConfig {
            requests: requests.try_into().unwrap(),
            per,
            burst: burst.try_into().unwrap(),
            by: RateLimitBy::Network { ipv4_bits: 32, ipv6_bits: 64 },
            clients_max: 1000,
        }
    }

    fn limit(config: &RateLimitConfig) -> (RateLimit<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (RateLimit::with_clock(config, clock.clone()), clock)
    }

    fn take<C: Clock>(limit: &RateLimit<C>, client: impl Into<IpAddr>, headers: &HeaderMap) -> Result<(), Exhausted> {
        let client = client.into();
        limit.take(&RequestFacts { host: "", path: "/", query: None, method: &Method::GET, headers, client })
    }

    /// How many of `tries` requests are let through at once.
    fn taken<C: Clock>(limit: &RateLimit<C>, client: impl Into<IpAddr> + Copy, tries: usize) -> usize {
        (0..tries).filter(|_| take(limit, client, &HeaderMap::new()).is_ok()).count()
    }

    const A: [u8; 4] = [192, 0, 2, 1];
    const B: [u8; 4] = [192, 0, 2, 2];

    #[test]
    fn a_burst_is_let_through_and_then_so_many_in_each_span() {
        let (limit, clock) = limit(&config(10, Duration::from_secs(1), 30));
        assert_eq!(taken(&limit, A, 100), 30);
        assert_eq!(taken(&limit, B, 10), 10, "another client has its own allowance");
        clock.advance(Duration::from_millis(99));
        assert_eq!(taken(&limit, A, 100), 0);
        clock.advance(Duration::from_millis(1));
        assert_eq!(taken(&limit, A, 100), 1);
        clock.advance(Duration::from_secs(1));
        assert_eq!(taken(&limit, A, 100), 10);
        clock.advance(Duration::from_hours(1));
        assert_eq!(taken(&limit, A, 100), 30, "no more than a burst is saved up");
    }

    #[test]
    fn the_wait_is_told_in_whole_seconds_rounded_up() {
        let (limit, clock) = limit(&config(1, Duration::from_secs(10), 1));
        let wait = || take(&limit, A, &HeaderMap::new()).map_err(|exhausted| exhausted.retry_after_s);
        assert_eq!(wait(), Ok(()));
        assert_eq!(wait(), Err(10));
        clock.advance(Duration::from_millis(8_999));
        assert_eq!(wait(), Err(2));
        clock.advance(Duration::from_millis(1_000));
        assert_eq!(wait(), Err(1));
        clock.advance(Duration::from_millis(1));
        assert_eq!(wait(), Ok(()));
    }

    #[test]
    fn clients_are_told_apart_by_what_is_configured_and_else_by_address() {
        let (limit, _clock) = limit(&RateLimitConfig {
            by: RateLimitBy::Header("x-key".parse().unwrap()),
            ..config(1, Duration::from_secs(1), 1)
        });
        let headers = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-key", value.parse().unwrap());
            }
            headers
        };
        assert!(take(&limit, A, &headers(&["one"])).is_ok());
        assert!(take(&limit, B, &headers(&["one"])).is_err(), "the same key from elsewhere");
        assert!(take(&limit, A, &headers(&["two"])).is_ok());
        assert!(take(&limit, A, &headers(&[])).is_ok(), "the first without a key");
        assert!(take(&limit, A, &headers(&["three", "four"])).is_err(), "two keys are none");
        assert!(take(&limit, B, &headers(&["three", "five"])).is_ok());
    }

    #[test]
    fn a_request_that_one_limit_refuses_takes_nothing_from_the_others() {
        let (one, clock) = limit(&config(1, Duration::from_secs(1), 3));
        let other = RateLimit::with_clock(&config(1, Duration::from_secs(60), 1), clock.clone());
        let limits = [Arc::new(one), Arc::new(other)];
        let headers = HeaderMap::new();
        let ask = |client: [u8; 4]| {
            let client = client.into();
            let facts =
                RequestFacts { host: "", path: "/", query: None, method: &Method::GET, headers: &headers, client };
            RateLimit::take_all(&limits, &facts).map_err(|(limit, exhausted)| (limit.policy().clone(), exhausted))
        };
        assert_eq!(ask(A), Ok(()));
        for _ in 0..100 {
            let (policy, exhausted) = ask(A).unwrap_err();
            assert_eq!((policy.to_str().unwrap(), exhausted.retry_after_s), ("\"default\";q=1;w=60", 60));
        }
        assert_eq!(taken(&limits[0], A, 10), 2, "one of three was counted");
        assert_eq!(ask(A).unwrap_err().0, "\"default\";q=1;w=1");
        assert_eq!(ask(B), Ok(()));
        clock.advance(Duration::from_secs(60));
        assert_eq!(ask(A), Ok(()));
    }

    #[test]
    fn clients_without_a_place_get_back_what_they_share() {
        let (one, clock) = limit(&RateLimitConfig { clients_max: 1, ..config(1, Duration::from_secs(1), 3) });
        let other = RateLimit::with_clock(&config(1, Duration::from_secs(60), 1), clock);
        assert_eq!((taken(&one, A, 1), taken(&other, B, 1)), (1, 1));
        let limits = [Arc::new(one), Arc::new(other)];
        let headers = HeaderMap::new();
        let facts = RequestFacts {
            host: "",
            path: "/",
            query: None,
            method: &Method::GET,
            headers: &headers,
            client: B.into(),
        };
        assert!((0..100).all(|_| RateLimit::take_all(&limits, &facts).is_err()));
        assert_eq!(taken(&limits[0], B, 10), 3);
    }

    #[test]
    fn networks_share_an_allowance() {
        let by = RateLimitBy::Network { ipv4_bits: 24, ipv6_bits: 64 };
        let (limit, _clock) = limit(&RateLimitConfig { by, ..config(1, Duration::from_secs(1), 1) });
        let ask = |client: &str| take(&limit, client.parse::<IpAddr>().unwrap(), &HeaderMap::new()).is_ok();
        assert!(ask("192.0.2.1") && !ask("192.0.2.255") && ask("192.0.3.1"));
        assert!(ask("2001:db8::1") && !ask("2001:db8::ffff:0:0:1") && ask("2001:db8:0:1::1"));
    }

    #[test]
    fn a_full_table_keeps_its_clients_and_lets_the_others_share() {
        let (limit, clock) = limit(&RateLimitConfig { clients_max: 2, ..config(2, Duration::from_secs(2), 2) });
        let client = |n: u8| [10, 0, 0, n];
        assert_eq!(taken(&limit, client(1), 1) + taken(&limit, client(2), 2), 3);
        assert_eq!((3..100).map(|n| taken(&limit, client(n), 1)).sum::<usize>(), 2, "one allowance for all others");
        assert_eq!((limit.clients(), limit.overflows()), (2, 97));
        assert_eq!(taken(&limit, client(1), 5), 1, "what was in the table stays in it");
        limit.sweep();
        assert_eq!(limit.clients(), 2);
        clock.advance(Duration::from_secs(4));
        limit.sweep();
        assert_eq!(limit.clients(), 0);
        assert_eq!(taken(&limit, client(3), 5), 2);
    }

    #[test]
    fn a_million_made_up_clients_take_no_more_room_than_allowed() {
        let (limit, clock) = limit(&RateLimitConfig { clients_max: 10_000, ..config(1, Duration::from_secs(60), 5) });
        for n in 0..1_000_000u32 {
            let _ = take(&limit, n.to_be_bytes(), &HeaderMap::new());
        }
        assert_eq!(limit.clients(), 10_000);
        let room = || limit.table.shards.iter().map(|shard| lock(&shard.0).capacity()).sum::<usize>();
        assert!(room() < 30_000, "{}", room());
        clock.advance(Duration::from_secs(600));
        limit.sweep();
        assert_eq!(limit.clients(), 0);
        // A shard that was small stays as it is.
        assert!(room() <= limit.table.shards.len() * 8 * 16, "{}", room());
    }

    #[test]
    fn the_policy_is_told_as_the_draft_has_it() {
        assert_eq!(policy(&config(100, Duration::from_secs(60), 5)), "\"default\";q=100;w=60");
        assert_eq!(policy(&config(100, Duration::from_millis(1500), 5)), "\"default\";q=100");
    }

    #[test]
    fn workers_together_let_no_more_through_than_one() {
        let limit = RateLimit::new(&config(1, Duration::from_hours(1), 500));
        let counts: Vec<usize> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(|| taken(&limit, A, 1000))).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        assert_eq!(counts.iter().sum::<usize>(), 500);
    }
}
