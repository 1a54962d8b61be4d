//! Host names to addresses, again and again. Uses the system's resolver, so that names mean here what they mean
//! to every other program on the machine (`/etc/hosts`, search domains, mDNS), on the control thread's blocking
//! pool, never on a worker.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::config::{Config, EndpointHost};
use crate::observe::ProcessMetrics;
use crate::state::{Change, Store};

/// Addresses kept of one name.
const ADDRESSES_MAX: usize = 256;
/// Lookups under way at once; the rest wait their turn.
const LOOKUPS_MAX: usize = 16;

/// All host names that endpoints of `config` use.
pub fn host_names(config: &Config) -> BTreeSet<String> {
    let endpoints = config.services.iter().flat_map(|s| &s.backends).flat_map(|b| &b.endpoints);
    endpoints
        .filter_map(|endpoint| match &endpoint.host {
            EndpointHost::Name(name) => Some(name.clone()),
            EndpointHost::Address(_) => None,
        })
        .collect()
}

/// Looks `names` up once, for at most `limit`; names that fail are left out and logged.
pub async fn resolve_once(names: BTreeSet<String>, limit: Duration) -> HashMap<String, Vec<IpAddr>> {
    let mut found = HashMap::new();
    let all = each(names, |name, result| match result {
        Ok(addresses) => {
            found.insert(name, addresses);
        }
        Err(reason) => warn!(host = %name, %reason, "a host name can't be resolved; its endpoints get no requests"),
    });
    if tokio::time::timeout(limit, all).await.is_err() {
        warn!("resolving host names takes long; going on with those that answered");
    }
    found
}

/// Looks names up, a bounded number at once, and hands each answer to `take`.
async fn each(names: BTreeSet<String>, mut take: impl FnMut(String, Result<Vec<IpAddr>, String>)) {
    let mut names = names.into_iter();
    let mut lookups = JoinSet::new();
    loop {
        while lookups.len() < LOOKUPS_MAX
            && let Some(name) = names.next()
        {
            lookups.spawn(async move {
                let result = look_up(&name).await;
                (name, result)
            });
        }
        match lookups.join_next().await {
            Some(Ok((name, result))) => take(name, result),
            Some(Err(_)) => {}
            None => return,
        }
    }
}

/// Sorted and without doubles, so that the same answer in another order is no change.
async fn look_up(name: &str) -> Result<Vec<IpAddr>, String> {
    let found = tokio::net::lookup_host((name, 0)).await.map_err(|e| e.to_string())?;
    let addresses: BTreeSet<IpAddr> = found.map(|address| address.ip()).collect();
    if addresses.is_empty() {
        return Err("the name has no address".to_owned());
    }
    Ok(addresses.into_iter().take(ADDRESSES_MAX).collect())
}

/// Keeps the store's addresses true.
#[derive(Debug)]
pub struct Resolver {
    store: Arc<Store>,
    process: Arc<ProcessMetrics>,
    known: HashMap<String, Vec<IpAddr>>,
}

impl Resolver {
    #[must_use]
    pub fn new(store: Arc<Store>, process: Arc<ProcessMetrics>, known: HashMap<String, Vec<IpAddr>>) -> Self {
        Self { store, process, known }
    }

    /// Looks all names up, then waits `resolve_interval` or for `reloaded`, for ever. A name that fails keeps its
    /// old addresses: a broken resolver must not take a working backend down.
    pub async fn run(mut self, reloaded: Arc<tokio::sync::Notify>) {
        loop {
            let config = self.store.config();
            tokio::select! {
                () = tokio::time::sleep(config.resolve_interval) => {}
                () = reloaded.notified() => {}
            }
            let names = self.store.host_names();
            self.known.retain(|name, _| names.contains(name));
            let mut changed = HashMap::new();
            each(names, |name, result| self.take(name, result, &mut changed)).await;
            if !changed.is_empty() {
                // Only configurations and weights are ever refused.
                drop(self.store.apply(Change::Resolved(changed)));
            }
        }
    }

    fn take(&mut self, name: String, result: Result<Vec<IpAddr>, String>, changed: &mut HashMap<String, Vec<IpAddr>>) {
        match result {
            Ok(addresses) if self.known.get(&name) == Some(&addresses) => {}
            Ok(addresses) => {
                info!(host = %name, ?addresses, "a host name has new addresses");
                self.known.insert(name.clone(), addresses.clone());
                changed.insert(name, addresses);
            }
            Err(reason) => {
                self.process.resolve_errors.fetch_add(1, Ordering::Relaxed);
                let addresses = self.known.get(&name).map_or(0, Vec::len);
                warn!(host = %name, %reason, keeping = addresses, "a host name can't be resolved");
            }
        }
    }
}
