//! The one door through which what requests see is changed.
//!
//! Readers load an `ArcSwap`; there is one writer at a time, behind a lock that only control threads take. Once
//! `apply` returns, the next request on every worker sees the change: workers compare their cached pointer with
//! the shared one at each request. Old snapshots are kept here until no worker holds them, so that freeing one
//! (a table of ten thousand services) never happens on a worker.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use arc_swap::ArcSwap;
use tracing::info;

use super::build::{Registry, Resolved, routes};
use super::{Service, Snapshot};
use crate::config::{Config, EndpointHost, ListenerConfig, ServiceConfig};
use crate::model::{BackendName, ServiceName, Weight};
use crate::tls::ServerTls;
use crate::upstream::host_names;

/// Names a listener across reloads: its configured address, and a number among listeners with that same address,
/// which only port 0 allows to be above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerKey {
    pub address: SocketAddr,
    pub nth: usize,
}

impl ListenerKey {
    /// The keys of all listeners of a configuration.
    pub fn all(config: &Config) -> impl Iterator<Item = (Self, &ListenerConfig)> {
        config.listeners.iter().enumerate().map(|(index, listener)| {
            let same = config.listeners[..index].iter().filter(|other| other.address == listener.address);
            (Self { address: listener.address, nth: same.count() }, listener)
        })
    }
}

/// Something that changes what requests see.
#[derive(Debug)]
pub enum Change {
    /// A new file, already checked, with addresses of the host names that are new in it.
    Config {
        config: Arc<Config>,
        resolved: HashMap<String, Vec<IpAddr>>,
    },
    Weights(WeightsChange),
    /// New addresses of host names.
    Resolved(HashMap<String, Vec<IpAddr>>),
}

/// All weights of one service at once.
#[derive(Debug, Clone)]
pub struct WeightsChange {
    pub service: String,
    pub weights: Vec<(String, f64)>,
}

/// Why a change was not applied. Nothing of it was.
#[derive(Debug, Clone, PartialEq)]
pub enum Refused {
    NoService { name: String, known: Vec<ServiceName> },
    NoBackend { name: String, known: Vec<BackendName> },
    Twice { name: String },
    Missing { names: Vec<BackendName> },
    Weight { name: String, reason: String },
    AllZero,
    Tls(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoService { name, known } => {
                write!(f, "there is no service {name:?}; there are: {}", list(known))
            }
            Self::NoBackend { name, known } => {
                write!(f, "the service has no backend {name:?}; it has: {}", list(known))
            }
            Self::Twice { name } => write!(f, "backend {name:?} is given two weights"),
            Self::Missing { names } => {
                write!(f, "weights are set all at once; still missing: {} (0 takes a backend out)", list(names))
            }
            Self::Weight { name, reason } => write!(f, "backend {name:?}: {reason}"),
            Self::AllZero => write!(f, "at least one weight must be above 0"),
            Self::Tls(reason) => write!(f, "a certificate can't be used: {reason}"),
        }
    }
}

impl std::error::Error for Refused {}

fn list<T: fmt::Display>(names: &[T]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Holds the current snapshot and everything needed to make the next one.
#[derive(Debug)]
pub struct Store {
    current: Arc<ArcSwap<Snapshot>>,
    writer: Mutex<Writer>,
}

#[derive(Debug)]
struct Writer {
    config: Arc<Config>,
    /// By service.
    overrides: HashMap<ServiceName, Override>,
    resolved: Resolved,
    registry: Registry,
    retired: Vec<Arc<Snapshot>>,
}

/// Live weights, and the file's that they replaced.
#[derive(Debug)]
struct Override {
    weights: Vec<Weight>,
    replaced: Vec<(BackendName, Weight)>,
}

impl Store {
    /// The first snapshot, of a configuration and of host names resolved so far.
    ///
    /// # Errors
    /// When a certificate can't be used.
    pub fn new(
        config: Arc<Config>,
        resolved: HashMap<String, Vec<IpAddr>>,
        workers: usize,
        server_tls: ServerTls,
    ) -> Result<Self, Refused> {
        let mut registry = Registry::new(workers, server_tls);
        let services =
            config.services.iter().map(|s| registry.service(&Arc::new(s.clone()), None, &resolved)).collect();
        let snapshot = Snapshot {
            version: 1,
            routes: Arc::new(routes(&config)),
            services,
            listeners: registry.listeners(&config).map_err(|e| Refused::Tls(e.to_string()))?,
            timeouts: config.timeouts,
            errors: Arc::new(config.errors.clone()),
        };
        let writer = Writer { config, overrides: HashMap::new(), resolved, registry, retired: Vec::new() };
        Ok(Self { current: Arc::new(ArcSwap::from_pointee(snapshot)), writer: Mutex::new(writer) })
    }

    /// What requests see now. For control threads; workers keep a cache of [`Store::shared`].
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The cell that workers cache.
    #[must_use]
    pub fn shared(&self) -> Arc<ArcSwap<Snapshot>> {
        Arc::clone(&self.current)
    }

    /// The configuration last applied.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.writer().config)
    }

    /// Changes what requests see, whole or not at all; returns the new version.
    ///
    /// # Errors
    /// When the change makes no sense for the current configuration.
    pub fn apply(&self, change: Change) -> Result<u64, Refused> {
        let mut writer = self.writer();
        let current = self.current.load_full();
        let next = match change {
            Change::Config { config, resolved } => writer.with_config(&current, &config, resolved)?,
            Change::Weights(change) => writer.with_weights(&current, &change)?,
            Change::Resolved(resolved) => writer.with_resolved(&current, &resolved),
        };
        let version = next.version;
        let old = self.current.swap(Arc::new(next));
        drop(current);
        writer.retired.push(old);
        writer.sweep();
        Ok(version)
    }

    /// Frees snapshots that no worker holds any more. Call it now and then.
    pub fn sweep(&self) {
        self.writer().sweep();
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic while the lock is held leaves the maps whole: they are changed by single insertions.
        self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Writer {
    fn with_config(
        &mut self,
        current: &Snapshot,
        config: &Arc<Config>,
        resolved: Resolved,
    ) -> Result<Snapshot, Refused> {
        let listeners = self.registry.listeners(config).map_err(|e| Refused::Tls(e.to_string()))?;
        let names = host_names(config);
        self.resolved.extend(resolved);
        self.resolved.retain(|name, _| names.contains(name));
        self.overrides.retain(|name, kept| {
            let survives = config.services.iter().any(|s| s.name == *name && kept.replaced == file_weights(s));
            if !survives {
                info!(service = %name, "live weights ended: the file's weights for this service changed");
            }
            survives
        });
        self.config = Arc::clone(config);
        let services: Box<[_]> = config.services.iter().map(|s| self.build(&Arc::new(s.clone()))).collect();
        self.registry.prune(&services);
        Ok(Snapshot {
            version: current.version + 1,
            routes: Arc::new(routes(config)),
            services,
            listeners,
            timeouts: config.timeouts,
            errors: Arc::new(config.errors.clone()),
        })
    }

    fn with_weights(&mut self, current: &Snapshot, change: &WeightsChange) -> Result<Snapshot, Refused> {
        let index = current.services.iter().position(|s| s.name().as_str() == change.service);
        let index = index.ok_or_else(|| Refused::NoService {
            name: change.service.clone(),
            known: current.services.iter().map(|s| s.name().clone()).collect(),
        })?;
        let config = Arc::clone(&current.services[index].config);
        let weights = checked_weights(&config, &change.weights)?;
        let replaced = file_weights(&config);
        if weights.iter().eq(replaced.iter().map(|(_, w)| w)) {
            self.overrides.remove(&config.name);
        } else {
            self.overrides.insert(config.name.clone(), Override { weights, replaced });
        }
        Ok(self.with_services_rebuilt(current, |service| service.name() == &config.name))
    }

    fn with_resolved(&mut self, current: &Snapshot, resolved: &Resolved) -> Snapshot {
        let uses_one = |service: &Service| {
            let mut endpoints = service.config.backends.iter().flat_map(|b| &b.endpoints);
            endpoints.any(|e| matches!(&e.host, EndpointHost::Name(name) if resolved.contains_key(name)))
        };
        self.resolved.extend(resolved.clone());
        let next = self.with_services_rebuilt(current, uses_one);
        self.registry.prune(&next.services);
        next
    }

    fn with_services_rebuilt(&mut self, current: &Snapshot, changed: impl Fn(&Service) -> bool) -> Snapshot {
        let services = current.services.iter();
        let services = services.map(|s| if changed(s) { self.build(&s.config) } else { Arc::clone(s) });
        Snapshot {
            version: current.version + 1,
            routes: Arc::clone(&current.routes),
            services: services.collect(),
            listeners: Arc::clone(&current.listeners),
            timeouts: current.timeouts,
            errors: Arc::clone(&current.errors),
        }
    }

    fn build(&mut self, config: &Arc<ServiceConfig>) -> Arc<Service> {
        let weights = self.overrides.get(&config.name).map(|o| o.weights.as_slice());
        self.registry.service(config, weights, &self.resolved)
    }

    fn sweep(&mut self) {
        self.retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }
}

fn file_weights(service: &ServiceConfig) -> Vec<(BackendName, Weight)> {
    service.backends.iter().map(|b| (b.name.clone(), b.weight)).collect()
}

/// The weights in the order of the service's backends.
fn checked_weights(service: &ServiceConfig, given: &[(String, f64)]) -> Result<Vec<Weight>, Refused> {
    let mut weights: Vec<Option<Weight>> = vec![None; service.backends.len()];
    for (name, value) in given {
        let index = service.backends.iter().position(|b| b.name.as_str() == name).ok_or_else(|| {
            Refused::NoBackend { name: name.clone(), known: service.backends.iter().map(|b| b.name.clone()).collect() }
        })?;
        let weight = Weight::new(*value).map_err(|e| Refused::Weight { name: name.clone(), reason: e.to_string() })?;
        if weights[index].replace(weight).is_some() {
            return Err(Refused::Twice { name: name.clone() });
        }
    }
    let missing: Vec<BackendName> =
        service.backends.iter().zip(&weights).filter(|(_, w)| w.is_none()).map(|(b, _)| b.name.clone()).collect();
    if !missing.is_empty() {
        return Err(Refused::Missing { names: missing });
    }
    let weights: Vec<Weight> = weights.into_iter().flatten().collect();
    if weights.iter().all(|w| w.is_zero()) {
        return Err(Refused::AllZero);
    }
    Ok(weights)
}
