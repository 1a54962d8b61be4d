//! How many connections are let in: in all, by listener, and from one client.
//!
//! A connection over a limit is closed at once and without a word: whoever floods us must not be written to, and an
//! answer to a request that isn't read is lost with the reset that follows.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;

use crate::model::lies_in;
use crate::observe::{ConnectionLimit, SharedGauge};
use crate::state::{Listener, Snapshot};

/// Parts of the table of clients, so that workers seldom wait for each other.
const SHARDS: usize = 64;
/// Without a limit of its own, no more connections than this, however many descriptors there are.
const CONNECTIONS_MAX: u64 = 50_000;
/// Descriptors that aren't for connections: files, listening sockets, the runtime's, the admin API's.
const RESERVE: u64 = 256;

/// Connections of the whole process. Touched when one begins or ends, never by a request.
#[derive(Debug)]
pub struct Admission {
    open: SharedGauge,
    /// Where the file doesn't say.
    default_max: u64,
    clients: Box<[Shard]>,
    hash: RandomState,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(Mutex<HashMap<IpAddr, u32, RandomState>>);

impl Admission {
    /// `descriptors` is how many files this process may open. A request needs two of them, one for each side.
    #[must_use]
    pub fn new(descriptors: u64) -> Self {
        let reserve = RESERVE.min(descriptors / 4);
        Self {
            open: SharedGauge::default(),
            default_max: ((descriptors - reserve) / 2).clamp(1, CONNECTIONS_MAX),
            clients: (0..SHARDS).map(|_| Shard::default()).collect(),
            hash: RandomState::default(),
        }
    }

    fn shard(&self, client: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, u32, RandomState>> {
        let shard = self.hash.hash_one(client) as usize % SHARDS;
        // A panic while the lock is held leaves the map whole.
        self.clients[shard].0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's place among all; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    admission: Arc<Admission>,
    listener: Arc<SharedGauge>,
    /// Counted in the table of clients.
    client: Option<IpAddr>,
}

impl Place {
    /// Takes a place of the process and one of the listener.
    pub(super) fn take(
        admission: &Arc<Admission>,
        listener: &Listener,
        snapshot: &Snapshot,
    ) -> Result<Self, ConnectionLimit> {
        let max = snapshot.limits.connections.unwrap_or(admission.default_max);
        if !admission.open.enter(max) {
            return Err(ConnectionLimit::Total);
        }
        if !listener.open.enter(listener.connections.unwrap_or(u64::MAX)) {
            admission.open.leave();
            return Err(ConnectionLimit::Listener);
        }
        Ok(Self { admission: Arc::clone(admission), listener: Arc::clone(&listener.open), client: None })
    }

    /// Takes one of the client's places, once it is known who the client is.
    pub(super) fn claim(&mut self, client: IpAddr, snapshot: &Snapshot) -> Result<(), ConnectionLimit> {
        let Some(max) = snapshot.limits.connections_per_client else { return Ok(()) };
        // Many clients come through a trusted proxy.
        if lies_in(client, &snapshot.forwarding.trust.proxies) {
            return Ok(());
        }
        let client = one_client(client);
        let mut clients = self.admission.shard(client);
        let open = clients.entry(client).or_insert(0);
        if *open >= max {
            return Err(ConnectionLimit::Client);
        }
        *open += 1;
        drop(clients);
        self.client = Some(client);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.listener.leave();
        self.admission.open.leave();
        let Some(client) = self.client else { return };
        let mut clients = self.admission.shard(client);
        if let Some(open) = clients.get_mut(&client) {
            *open -= 1;
            if *open == 0 {
                clients.remove(&client);
                // What a flood made of the table doesn't stay.
                if clients.capacity() > 64 && clients.len() < clients.capacity() / 8 {
                    clients.shrink_to_fit();
                }
            }
        }
    }
}

/// Whoever has one IPv6 address has at least the 2^64 of its network.
fn one_client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(admission: &Arc<Admission>) -> Place {
        assert!(admission.open.enter(u64::MAX));
        let listener = Arc::<SharedGauge>::default();
        assert!(listener.enter(1));
        Place { admission: Arc::clone(admission), listener, client: None }
    }

    fn claim(place: &mut Place, client: &str) {
        let client = one_client(client.parse().unwrap());
        *place.admission.shard(client).entry(client).or_insert(0) += 1;
        place.client = Some(client);
    }

    #[test]
    fn descriptors_decide_how_many_are_let_in() {
        for (descriptors, max) in
            [(80, 30), (1024, 384), (65_536, 32_640), (1 << 20, 50_000), (u64::MAX, 50_000), (1, 1)]
        {
            assert_eq!(Admission::new(descriptors).default_max, max, "{descriptors}");
        }
    }

    #[test]
    fn addresses_of_one_network_are_one_client() {
        let same = |a: &str, b: &str| one_client(a.parse().unwrap()) == one_client(b.parse().unwrap());
        assert!(same("2001:db8::1", "2001:db8::ffff:1"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
        assert!(same("::ffff:192.0.2.1", "192.0.2.1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
    }

    #[test]
    fn nothing_is_left_of_clients_that_left() {
        let admission = Arc::new(Admission::new(1024));
        let mut places: Vec<Place> = (0..20_000).map(|_| place(&admission)).collect();
        for (index, place) in places.iter_mut().enumerate() {
            claim(place, &format!("10.0.{}.{}", index / 256, index % 256));
        }
        assert_eq!(admission.open.value(), 20_000);
        drop(places);
        let left = |shard: &Shard| shard.0.lock().unwrap().capacity();
        assert_eq!(admission.open.value(), 0);
        assert!(admission.clients.iter().map(left).sum::<usize>() < SHARDS * 65);
    }
}
