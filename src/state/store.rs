//! The one door through which what requests see is changed.
//!
//! Readers load an `ArcSwap`; there is one writer at a time, behind a lock that only control threads take. Once
//! `apply` returns, the next request on every worker sees the change: workers compare their cached pointer with
//! the shared one at each request. Old snapshots are kept here until no worker holds them, so that freeing one
//! (a table of ten thousand services) never happens on a worker.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;

use super::build::{Drains, Live, LiveMirrors, Registry, Resolved, routes};
use super::deployment::{deployed, deployed_names, live_revision, still_holds};
use super::{Backend, Hold, Mirror, Service, Snapshot, UsedServices};
use crate::config::{Config, EndpointHost, ListenerConfig, ServiceConfig};
use crate::model::{
    BackendName, Deployment, Drain, LiveMirror, LiveWeights, NamedWeights, OpenRollout, Percent, ServiceName, Weight,
};
use crate::tls::ServerTls;
use crate::upstream::{Alarm, host_names};

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
    /// The file's weights again.
    Reset {
        service: String,
    },
    /// New requests of a service wait, until it is released.
    Hold {
        service: String,
        hold: Arc<Hold>,
    },
    Release {
        service: String,
    },
    /// New addresses of host names.
    Resolved(HashMap<String, Vec<IpAddr>>),
    /// Endpoints of these services became available, or no longer are.
    Availability(HashSet<ServiceName>),
    /// A backend gets no new requests, or only as many as a trial takes.
    Drain(Drain),
    /// Something was deployed, or a rollout goes a step.
    Deploy(DeployChange),
    /// A backend gets what its weight says again; where another drain than this one holds by now, that stays.
    Undrain(Arc<Drain>),
    /// How much of a service is mirrored to a backend; `None`: what the file says.
    Mirror {
        service: ServiceName,
        backend: BackendName,
        percent: Option<Percent>,
    },
}

/// What a rollout changes, all at once.
#[derive(Debug, Clone)]
pub struct DeployChange {
    /// In place of what was deployed before.
    pub deployment: Deployment,
    /// All weights; `None`: as they are.
    pub weights: Option<Vec<(String, f64)>>,
    /// These get what their weights say, whoever has drained them.
    pub undrain: Vec<BackendName>,
    /// Addresses of host names that are new in it.
    pub resolved: HashMap<String, Vec<IpAddr>>,
}

/// All weights of one service at once.
#[derive(Debug, Clone)]
pub struct WeightsChange {
    pub service: String,
    pub weights: Vec<(String, f64)>,
}

/// A change that was applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The new version of what requests see.
    pub version: u64,
    /// Live weights that the change ended.
    pub ended: Vec<LiveWeights>,
    /// Drains that the change ended.
    pub undrained: Vec<Drain>,
    /// Live shares of mirrors that the change ended.
    pub unmirrored: Vec<LiveMirror>,
    /// Deployments that the change ended, or a part of them, as they were.
    pub replaced: Vec<Deployment>,
}

impl Applied {
    fn new(version: u64, changes: LiveChanges) -> Self {
        let LiveChanges { weights: ended, drains: undrained, mirrors: unmirrored, deployments: replaced } = changes;
        Self { version, ended, undrained, unmirrored, replaced }
    }
}

/// What setting a mirror's share would do.
#[derive(Debug, Clone, PartialEq)]
pub struct MirrorPlan {
    pub service: ServiceName,
    pub backend: BackendName,
    /// What the file or an override says now.
    pub from: Percent,
    /// What the file says.
    pub configured: Percent,
    /// Version of the service, as [`Service::revision`].
    pub revision: u64,
    /// The rollout that has this mirror, as long as it is at that step.
    pub rollout: Option<OpenRollout>,
}

/// What draining or undraining a backend is about.
#[derive(Debug, Clone, PartialEq)]
pub struct DrainPlan {
    pub service: ServiceName,
    pub backend: BackendName,
    /// What runs there now.
    pub revision: Arc<str>,
    pub is_stable: bool,
    /// What holds now.
    pub drain: Option<Arc<Drain>>,
    /// Without it, somebody else would still answer.
    pub others_answer: bool,
    /// Version of the service's weights, as [`Service::revision`].
    pub version: u64,
}

/// What changing a service's weights would do.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightsPlan {
    pub service: ServiceName,
    /// What the file or an override says now.
    pub from: NamedWeights,
    pub to: NamedWeights,
    /// What the file says.
    pub configured: NamedWeights,
    /// Index of the stable backend.
    pub stable: usize,
    /// Version of the service's weights, as [`Service::revision`].
    pub revision: u64,
    /// The rollout that is under way.
    pub rollout: Option<OpenRollout>,
    /// What was deployed live.
    pub deployment: Option<Arc<Deployment>>,
}

impl WeightsPlan {
    /// Nobody but stable gets a larger share than before: safe even if nothing could be written down.
    #[must_use]
    pub fn is_toward_stable(&self) -> bool {
        let shares = |weights: &NamedWeights| {
            let total: f64 = weights.iter().map(|(_, weight)| weight.value()).sum();
            weights.iter().map(|(_, weight)| weight.value() / total).collect::<Vec<_>>()
        };
        let pairs = shares(&self.from).into_iter().zip(shares(&self.to)).enumerate();
        pairs.filter(|(index, _)| *index != self.stable).all(|(_, (from, to))| to <= from)
    }
}

/// What a start knows of earlier live changes.
#[derive(Debug, Clone, PartialEq)]
pub enum History {
    /// All of it.
    Known(LiveChanges),
    /// Nothing: what was drained or shifted can't be known, so stable gets everything.
    Unknown,
}

/// What was changed live and must still hold.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LiveChanges {
    pub weights: Vec<LiveWeights>,
    pub drains: Vec<Drain>,
    pub mirrors: Vec<LiveMirror>,
    pub deployments: Vec<Deployment>,
}

impl LiveChanges {
    fn concern(&self, service: &ServiceName) -> bool {
        self.weights.iter().any(|live| live.service == *service)
            || self.drains.iter().any(|drain| drain.service == *service)
            || self.mirrors.iter().any(|live| live.service == *service)
            || self.deployments.iter().any(|live| live.service == *service)
    }
}

/// Why a change was not applied. Nothing of it was.
#[derive(Debug, Clone, PartialEq)]
pub enum Refused {
    NoService {
        name: String,
        known: Vec<ServiceName>,
    },
    NoBackend {
        name: String,
        known: Vec<BackendName>,
    },
    NoEndpoint {
        name: String,
        known: Vec<String>,
    },
    NoMirror {
        name: String,
        known: Vec<BackendName>,
    },
    Percent(String),
    Twice {
        name: String,
    },
    Missing {
        names: Vec<BackendName>,
    },
    Weight {
        name: String,
        reason: String,
    },
    AllZero,
    Hold(String),
    Roll(String),
    /// Nobody would be left to answer.
    LastBackend {
        name: String,
    },
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
            Self::NoEndpoint { name, known } => {
                write!(f, "the backend has no endpoint {name:?}; it has: {}", list(known))
            }
            Self::NoMirror { name, known } => write!(
                f,
                "the service has no mirror to {name:?} in the file; it mirrors to: {} (percent = 0 prepares one)",
                list(known)
            ),
            Self::Percent(reason) => f.write_str(reason),
            Self::Twice { name } => write!(f, "backend {name:?} is given two weights"),
            Self::Missing { names } => {
                write!(f, "weights are set all at once; still missing: {} (0 takes a backend out)", list(names))
            }
            Self::Weight { name, reason } => write!(f, "backend {name:?}: {reason}"),
            Self::LastBackend { name } => write!(
                f,
                "{name} is the last backend that could answer; undrain another one, or give it a weight above 0, first"
            ),
            Self::AllZero => write!(f, "at least one weight must be above 0"),
            Self::Hold(reason) | Self::Roll(reason) => f.write_str(reason),
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
    alarm: Arc<Alarm>,
}

#[derive(Debug)]
struct Writer {
    config: Arc<Config>,
    /// By service.
    overrides: HashMap<ServiceName, LiveWeights>,
    /// By service.
    holds: HashMap<ServiceName, Arc<Hold>>,
    drains: Drains,
    mirrors: LiveMirrors,
    /// By service.
    deployments: HashMap<ServiceName, Arc<Deployment>>,
    /// See [`History::Unknown`].
    stable_only: bool,
    resolved: Resolved,
    registry: Registry,
    retired: Vec<Arc<Snapshot>>,
}

impl Store {
    /// The first snapshot, of a configuration, of host names resolved so far, and of earlier live changes; with it, those
    /// of them that ended because the file has changed since.
    ///
    /// # Errors
    /// When a certificate can't be used.
    pub fn new(
        config: &Arc<Config>,
        resolved: HashMap<String, Vec<IpAddr>>,
        workers: usize,
        server_tls: ServerTls,
        history: History,
    ) -> Result<(Self, LiveChanges), Refused> {
        let stable_only = history == History::Unknown;
        let kept = match history {
            History::Known(kept) => kept,
            History::Unknown => LiveChanges::default(),
        };
        let key = |drain: &Drain| (drain.service.clone(), drain.backend.clone());
        let mut writer = Writer {
            overrides: kept.weights.into_iter().map(|live| (live.service.clone(), live)).collect(),
            drains: kept.drains.into_iter().map(|drain| (key(&drain), Arc::new(drain))).collect(),
            mirrors: kept.mirrors.into_iter().map(|m| ((m.service.clone(), m.backend.clone()), m)).collect(),
            deployments: kept.deployments.into_iter().map(|live| (live.service.clone(), Arc::new(live))).collect(),
            holds: HashMap::new(),
            stable_only,
            resolved,
            registry: Registry::new(workers, server_tls),
            retired: Vec::new(),
            config: Arc::clone(config),
        };
        // In this order: whether a drain holds depends on what is deployed.
        let deployments = writer.end_deployments(config);
        let (weights, drains) = (writer.end_overrides(config), writer.end_drains(config));
        let ended = LiveChanges { weights, drains, mirrors: writer.end_mirrors(config), deployments };
        let snapshot = Snapshot {
            version: 1,
            since: Instant::now(),
            routes: Arc::new(routes(config)),
            services: config.services.iter().map(|s| writer.build(s, 1, 1)).collect(),
            used: UsedServices::new(config.services.len()),
            listeners: writer.registry.listeners(config).map_err(|e| Refused::Tls(e.to_string()))?,
            limits: config.limits,
            timeouts: config.timeouts,
            errors: Arc::new(config.errors.clone()),
            forwarding: Arc::clone(&config.forwarding),
        };
        let alarm = Arc::clone(&writer.registry.alarm);
        Ok((Self { current: Arc::new(ArcSwap::from_pointee(snapshot)), writer: Mutex::new(writer), alarm }, ended))
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

    /// Rings at each change, and when an endpoint's health has to be looked at.
    #[must_use]
    pub fn alarm(&self) -> &Arc<Alarm> {
        &self.alarm
    }

    /// The configuration last applied.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.writer().config)
    }

    /// All host names that endpoints have, deployed ones included.
    #[must_use]
    pub fn host_names(&self) -> BTreeSet<String> {
        self.writer().host_names()
    }

    /// What new weights would do, or the file's where none are given. Nothing is changed.
    ///
    /// # Errors
    /// When they make no sense for the current configuration.
    pub fn plan(&self, service: &str, weights: Option<&[(String, f64)]>) -> Result<WeightsPlan, Refused> {
        let _writer = self.writer();
        let current = self.current();
        let found = named_service(&current, service)?;
        let configured = file_weights(&found.config);
        let to = match weights {
            None => configured.clone(),
            Some(given) => named(&found.config, checked_weights(&found.config, given)?),
        };
        Ok(WeightsPlan {
            service: found.name().clone(),
            from: found.backends.iter().map(|b| (b.name.clone(), b.wanted)).collect(),
            to,
            configured,
            stable: found.config.stable,
            revision: found.revision,
            rollout: found.rollout().cloned(),
            deployment: found.deployment.clone(),
        })
    }

    /// What draining or undraining a backend is about. Nothing is changed.
    ///
    /// # Errors
    /// When there is no such backend.
    pub fn plan_drain(&self, service: &str, backend: &str) -> Result<DrainPlan, Refused> {
        let current = self.current();
        let found = named_service(&current, service)?;
        let backend = named_backend(found, backend)?;
        let answers = |other: &Backend| other.name != backend.name && !other.effective.is_zero();
        let stable = found.stable();
        let falls_to_stable = stable.name != backend.name && stable.drain.is_none() && stable.is_available();
        Ok(DrainPlan {
            service: found.name().clone(),
            backend: backend.name.clone(),
            revision: Arc::clone(&backend.revision),
            is_stable: stable.name == backend.name,
            drain: backend.drain.clone(),
            others_answer: falls_to_stable || found.backends.iter().any(answers),
            version: found.revision,
        })
    }

    /// What setting the share of a service's mirror would do.
    ///
    /// # Errors
    /// When there is no such service, or it has no such mirror.
    pub fn plan_mirror(&self, service: &str, backend: &str) -> Result<MirrorPlan, Refused> {
        let current = self.current();
        let service = named_service(&current, service)?;
        let mirror = named_mirror(service, backend)?;
        Ok(MirrorPlan {
            service: service.name().clone(),
            backend: mirror.backend.clone(),
            from: mirror.percent,
            configured: mirror.config.percent,
            revision: service.revision,
            rollout: service.rollout().filter(|open| open.mirrored > 0.0 && open.candidate == mirror.backend).cloned(),
        })
    }

    /// Changes what requests see, whole or not at all.
    ///
    /// # Errors
    /// When the change makes no sense for the current configuration.
    pub fn apply(&self, change: Change) -> Result<Applied, Refused> {
        let mut writer = self.writer();
        let current = self.current.load_full();
        let mut changes = LiveChanges::default();
        let mut released = None;
        let next = match change {
            Change::Config { config, resolved } => writer.with_config(&current, &config, resolved, &mut changes)?,
            Change::Deploy(change) => writer.with_deployment(&current, change, &mut changes)?,
            Change::Weights(change) => writer.with_weights(&current, &change)?,
            Change::Reset { service } => {
                let config = Arc::clone(&named_service(&current, &service)?.config);
                changes.weights.extend(writer.overrides.remove(&config.name));
                let deployment = writer.deployments.remove(&config.name);
                changes.deployments.extend(deployment.map(|live| (*live).clone()));
                let file = Arc::clone(&writer.config);
                changes.drains.extend(writer.end_drains(&file));
                writer.with_weights_rebuilt(&current, &config.name)
            }
            Change::Hold { service, hold } => {
                let name = named_service(&current, &service)?.name().clone();
                released = writer.holds.insert(name.clone(), hold);
                writer.with_hold(&current, &name)
            }
            Change::Release { service } => {
                let name = named_service(&current, &service)?.name().clone();
                released = writer.holds.remove(&name);
                writer.with_hold(&current, &name)
            }
            Change::Resolved(resolved) => writer.with_resolved(&current, &resolved),
            Change::Availability(services) => match writer.with_availability(&current, &services) {
                Some(next) => next,
                None => return Ok(Applied::new(current.version, changes)),
            },
            Change::Drain(drain) => {
                let name = drain.service.clone();
                named_backend(named_service(&current, name.as_str())?, drain.backend.as_str())?;
                writer.drains.insert((name.clone(), drain.backend.clone()), Arc::new(drain));
                writer.with_weights_rebuilt(&current, &name)
            }
            Change::Undrain(drain) => {
                named_backend(named_service(&current, drain.service.as_str())?, drain.backend.as_str())?;
                let key = (drain.service.clone(), drain.backend.clone());
                if writer.drains.get(&key) == Some(&drain) {
                    changes.drains.extend(writer.drains.remove(&key).map(|drain| (*drain).clone()));
                }
                writer.with_weights_rebuilt(&current, &drain.service)
            }
            Change::Mirror { service, backend, percent } => {
                let configured =
                    named_mirror(named_service(&current, service.as_str())?, backend.as_str())?.config.percent;
                let key = (service.clone(), backend.clone());
                match percent.filter(|percent| *percent != configured) {
                    Some(percent) => {
                        let live = LiveMirror { service: service.clone(), backend, percent, replaced: configured };
                        writer.mirrors.insert(key, live);
                    }
                    None => drop(writer.mirrors.remove(&key)),
                }
                writer.with_weights_rebuilt(&current, &service)
            }
        };
        let version = next.version;
        let old = self.current.swap(Arc::new(next));
        released.into_iter().chain(writer.orphaned_holds()).for_each(|hold| hold.release());
        drop(current);
        writer.retired.push(old);
        writer.sweep();
        self.alarm.ring();
        Ok(Applied::new(version, changes))
    }

    /// Frees snapshots that no worker holds any more, and what rate limits know of clients that are gone. Call it
    /// now and then.
    pub fn sweep(&self) {
        let current = self.current();
        current.services.iter().flat_map(|service| &service.rate_limits).for_each(|limit| limit.sweep());
        drop(current);
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
        changes: &mut LiveChanges,
    ) -> Result<Snapshot, Refused> {
        let listeners = self.registry.listeners(config).map_err(|e| Refused::Tls(e.to_string()))?;
        changes.deployments.extend(self.end_deployments(config));
        changes.weights.extend(self.end_overrides(config));
        changes.drains.extend(self.end_drains(config));
        changes.mirrors.extend(self.end_mirrors(config));
        let before = std::mem::replace(&mut self.config, Arc::clone(config));
        let names = self.host_names();
        self.resolved.extend(resolved);
        self.resolved.retain(|name, _| names.contains(name));
        let version = current.version + 1;
        let files: HashSet<_, RandomState> = before.services.iter().map(Arc::as_ptr).collect();
        let known: HashMap<_, _, RandomState> = current.services.iter().map(|s| (s.name(), s)).collect();
        let services = config.services.iter().map(|config| {
            let is_same = files.contains(&Arc::as_ptr(config)) && !changes.concern(&config.name);
            match known.get(&config.name).filter(|_| is_same) {
                Some(known) if !known.config.has_host_names() => Arc::clone(known),
                // Its addresses may be others by now.
                Some(known) => self.build(config, known.revision, version),
                None => self.build(config, version, version),
            }
        });
        let services: Box<[_]> = services.collect();
        let are_the_same = services.iter().map(Arc::as_ptr).eq(current.services.iter().map(Arc::as_ptr));
        if !are_the_same {
            self.registry.prune(&services);
        }
        let snapshot = Snapshot {
            version,
            since: Instant::now(),
            routes: if are_the_same { Arc::clone(&current.routes) } else { Arc::new(routes(config)) },
            services,
            used: UsedServices::new(config.services.len()),
            listeners,
            limits: config.limits,
            timeouts: config.timeouts,
            errors: Arc::new(config.errors.clone()),
            forwarding: Arc::clone(&config.forwarding),
        };
        Ok(snapshot)
    }

    /// Holds of services that there are no more.
    fn orphaned_holds(&mut self) -> Vec<Arc<Hold>> {
        let config = Arc::clone(&self.config);
        let is_there = |name: &ServiceName| config.services.iter().any(|service| service.name == *name);
        self.holds.extract_if(|name, _| !is_there(name)).map(|(_, hold)| hold).collect()
    }

    /// Lets go of live weights whose service is gone, or whose file's weights are others than those they replaced.
    fn end_overrides(&mut self, config: &Config) -> Vec<LiveWeights> {
        let holds = |live: &LiveWeights| {
            config.services.iter().any(|s| s.name == live.service && live.replaced == file_weights(s))
        };
        self.overrides.extract_if(|_, live| !holds(live)).map(|(_, live)| live).collect()
    }

    /// Lets go of drains whose backend is gone, or is of another revision now.
    fn end_drains(&mut self, config: &Config) -> Vec<Drain> {
        let holds = |drain: &Drain| {
            let service = config.services.iter().find(|s| s.name == drain.service);
            let backend = service.and_then(|s| s.backends.iter().find(|b| b.name == drain.backend));
            let live = self.deployments.get(&drain.service).map(|live| &**live);
            backend.is_some_and(|backend| {
                drain.holds_for(live_revision(live, &drain.backend).unwrap_or(&backend.revision))
            })
        };
        self.drains.extract_if(|_, drain| !holds(drain)).map(|(_, drain)| (*drain).clone()).collect()
    }

    /// Lets go of live shares of mirrors that are gone, or whose share in the file is another than the one they replaced.
    fn end_mirrors(&mut self, config: &Config) -> Vec<LiveMirror> {
        let holds = |live: &LiveMirror| {
            let service = config.services.iter().find(|s| s.name == live.service);
            let of = |s: &ServiceConfig| {
                s.mirrors.iter().any(|m| s.backends[m.backend].name == live.backend && m.percent == live.replaced)
            };
            service.is_some_and(|service| of(service))
        };
        self.mirrors.extract_if(|_, live| !holds(live)).map(|(_, live)| live).collect()
    }

    /// Lets go of what was deployed where the file says something else by now; as they were.
    fn end_deployments(&mut self, config: &Config) -> Vec<Deployment> {
        let mut replaced = Vec::new();
        self.deployments.retain(|name, live| {
            let file = config.services.iter().find(|service| service.name == *name);
            let holds = still_holds(file.map(|file| &**file), live);
            if holds != **live {
                replaced.push((**live).clone());
                *live = Arc::new(holds);
            }
            !live.is_none()
        });
        replaced
    }

    fn with_deployment(
        &mut self,
        current: &Snapshot,
        change: DeployChange,
        changes: &mut LiveChanges,
    ) -> Result<Snapshot, Refused> {
        let DeployChange { deployment, weights, undrain, resolved } = change;
        let name = deployment.service.clone();
        let config = Arc::clone(&named_service(current, name.as_str())?.config);
        if let Some(weights) = weights {
            let weights = named(&config, checked_weights(&config, &weights)?);
            self.set_override(&config, weights);
        }
        for backend in undrain {
            let drain = self.drains.remove(&(name.clone(), backend));
            changes.drains.extend(drain.map(|drain| (*drain).clone()));
        }
        self.resolved.extend(resolved);
        if deployment.is_none() {
            self.deployments.remove(&name);
        } else {
            self.deployments.insert(name.clone(), Arc::new(deployment));
        }
        let file = Arc::clone(&self.config);
        changes.drains.extend(self.end_drains(&file));
        let names = self.host_names();
        self.resolved.retain(|name, _| names.contains(name));
        let next = self.with_weights_rebuilt(current, &name);
        self.registry.prune(&next.services);
        Ok(next)
    }

    /// All host names that endpoints have.
    fn host_names(&self) -> BTreeSet<String> {
        let mut names = host_names(&self.config);
        names.extend(deployed_names(self.deployments.values().map(|live| &**live)));
        names
    }

    fn with_weights(&mut self, current: &Snapshot, change: &WeightsChange) -> Result<Snapshot, Refused> {
        let config = Arc::clone(&named_service(current, &change.service)?.config);
        let weights = named(&config, checked_weights(&config, &change.weights)?);
        self.set_override(&config, weights);
        Ok(self.with_weights_rebuilt(current, &config.name))
    }

    fn set_override(&mut self, config: &ServiceConfig, weights: NamedWeights) {
        let replaced = file_weights(config);
        if weights == replaced {
            self.overrides.remove(&config.name);
        } else {
            let live = LiveWeights { service: config.name.clone(), weights, replaced };
            self.overrides.insert(config.name.clone(), live);
        }
    }

    fn with_hold(&mut self, current: &Snapshot, name: &ServiceName) -> Snapshot {
        self.with_services_rebuilt(current, |service| (service.name() == name).then_some(service.revision))
    }

    fn with_weights_rebuilt(&mut self, current: &Snapshot, name: &ServiceName) -> Snapshot {
        let version = current.version + 1;
        self.with_services_rebuilt(current, |service| (service.name() == name).then_some(version))
    }

    fn with_resolved(&mut self, current: &Snapshot, resolved: &Resolved) -> Snapshot {
        let uses_one = |service: &Service| {
            let mut endpoints = service.config.backends.iter().flat_map(|b| &b.endpoints);
            let uses = endpoints.any(|e| matches!(&e.host, EndpointHost::Name(name) if resolved.contains_key(name)));
            uses.then_some(service.revision)
        };
        self.resolved.extend(resolved.clone());
        let next = self.with_services_rebuilt(current, uses_one);
        self.registry.prune(&next.services);
        next
    }

    /// `None` when requests would see nothing new.
    fn with_availability(&mut self, current: &Snapshot, services: &HashSet<ServiceName>) -> Option<Snapshot> {
        let next = self.with_services_rebuilt(current, |s| services.contains(s.name()).then_some(s.revision));
        let mut pairs = current.services.iter().zip(&next.services);
        pairs.any(|(old, new)| !new.is_as_healthy_as(old)).then_some(next)
    }

    /// `changed`: the revision of those to rebuild.
    fn with_services_rebuilt(&mut self, current: &Snapshot, changed: impl Fn(&Service) -> Option<u64>) -> Snapshot {
        let services = current.services.iter();
        let services = services.map(|s| match changed(s) {
            Some(revision) => {
                let config = self.file_of(s);
                self.build(&config, revision, current.version + 1)
            }
            None => Arc::clone(s),
        });
        Snapshot {
            version: current.version + 1,
            since: Instant::now(),
            routes: Arc::clone(&current.routes),
            services: services.collect(),
            used: UsedServices::new(current.services.len()),
            listeners: Arc::clone(&current.listeners),
            limits: current.limits,
            timeouts: current.timeouts,
            errors: Arc::clone(&current.errors),
            forwarding: Arc::clone(&current.forwarding),
        }
    }

    /// What the file says of a service.
    fn file_of(&self, service: &Service) -> Arc<ServiceConfig> {
        if service.deployment.is_none() {
            return Arc::clone(&service.config);
        }
        let file = self.config.services.iter().find(|file| file.name == *service.name());
        Arc::clone(file.unwrap_or(&service.config))
    }

    /// `config`: what the file says; `version`: the snapshot's that it is for.
    fn build(&mut self, config: &Arc<ServiceConfig>, revision: u64, version: u64) -> Arc<Service> {
        let deployment = self.deployments.get(&config.name).cloned();
        let live = deployment.as_ref().map(|live| Arc::new(deployed(config, live)));
        let config = live.as_ref().unwrap_or(config);
        let live = self.overrides.get(&config.name).map(|live| live.weights.iter().map(|(_, weight)| *weight));
        let overridden = live.is_some();
        let weights = match live {
            Some(live) => Some(live.collect()),
            None if self.stable_only => Some(stable_alone(config)),
            None => None,
        };
        let live = Live {
            weights: weights.as_deref(),
            drains: &self.drains,
            hold: self.holds.get(&config.name),
            mirrors: &self.mirrors,
        };
        let service = self.registry.service(config, live, revision, &self.resolved);
        Arc::new(service.overridden(overridden).deployed(deployment).made_for(version))
    }

    fn sweep(&mut self) {
        self.retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }
}

fn file_weights(service: &ServiceConfig) -> NamedWeights {
    service.backends.iter().map(|b| (b.name.clone(), b.weight)).collect()
}

fn named(service: &ServiceConfig, weights: Vec<Weight>) -> NamedWeights {
    service.backends.iter().map(|b| b.name.clone()).zip(weights).collect()
}

fn stable_alone(service: &ServiceConfig) -> Vec<Weight> {
    let one = Weight::new(1.0).expect("1 is a weight");
    (0..service.backends.len()).map(|index| if index == service.stable { one } else { Weight::ZERO }).collect()
}

/// The service of this name.
///
/// # Errors
/// When there is none: which there are.
pub fn named_service<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a Arc<Service>, Refused> {
    snapshot.service(name).ok_or_else(|| Refused::NoService {
        name: name.to_owned(),
        known: snapshot.services.iter().map(|s| s.name().clone()).collect(),
    })
}

fn named_backend<'a>(service: &'a Service, name: &str) -> Result<&'a Backend, Refused> {
    service.backend(name).ok_or_else(|| Refused::NoBackend {
        name: name.to_owned(),
        known: service.backends.iter().map(|b| b.name.clone()).collect(),
    })
}

fn named_mirror<'a>(service: &'a Service, name: &str) -> Result<&'a Mirror, Refused> {
    let mirrors = || service.mirrors.iter().flatten();
    mirrors().find(|mirror| mirror.backend.as_str() == name).ok_or_else(|| Refused::NoMirror {
        name: name.to_owned(),
        known: mirrors().map(|mirror| mirror.backend.clone()).collect(),
    })
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
