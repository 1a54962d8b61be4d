//! The immutable table that one request reads from start to end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use rustls::ServerConfig;

use super::{BackendWatch, Hold, ListenerKey, Mirror, RouteTable, ServiceWatch, UsedServices};
use crate::config::{
    BackendLimits, ClientLimits, ClientTimeouts, ErrorPages, ForwardingConfig, RuleConfig, ServiceConfig,
};
use crate::model::{
    Arm, BackendName, ClientKey, Deployment, Drain, OpenRollout, RequestFacts, ServiceName, Split, Weight, choose,
};
use crate::observe::{BackendMetrics, ServiceMetrics, SharedGauge};
use crate::rate_limit::RateLimit;
use crate::upstream::{Endpoint, Limiter};

/// Everything requests see, at one version.
#[derive(Debug)]
pub struct Snapshot {
    /// Grows by one with each change.
    pub version: u64,
    /// What was asked before wasn't asked by it.
    pub since: Instant,
    pub routes: Arc<RouteTable>,
    /// Indexed by what `routes` finds.
    pub services: Box<[Arc<Service>]>,
    /// Which of them this snapshot's requests have reached.
    pub used: UsedServices,
    pub listeners: Arc<[Arc<Listener>]>,
    pub limits: ClientLimits,
    pub timeouts: ClientTimeouts,
    /// For requests that no service takes.
    pub errors: Arc<ErrorPages>,
    pub forwarding: Arc<ForwardingConfig>,
}

impl Snapshot {
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Arc<Service>> {
        self.services.iter().find(|s| s.name().as_str() == name)
    }

    #[must_use]
    pub fn listener(&self, key: ListenerKey) -> Option<&Arc<Listener>> {
        self.listeners.iter().find(|l| l.key == key)
    }
}

/// A listener as connections see it; its sockets belong to the workers.
#[derive(Debug)]
pub struct Listener {
    pub key: ListenerKey,
    pub address: SocketAddr,
    pub tls: Option<Arc<ServerConfig>>,
    /// Connections begin with a PROXY header, and may come only from here; empty: they don't.
    pub proxy_protocol: Arc<[IpNet]>,
    /// The most of `open`.
    pub connections: Option<u64>,
    /// Its client connections, across reloads.
    pub open: Arc<SharedGauge>,
}

/// A service with its live backends.
#[derive(Debug)]
pub struct Service {
    pub config: Arc<ServiceConfig>,
    pub backends: Box<[Backend]>,
    /// All of them must be kept.
    pub rate_limits: Box<[Arc<RateLimit>]>,
    /// It asks something of a request before it takes it: access lists, TLS, rate limits; or it is closed, or held.
    pub guarded: bool,
    pub metrics: Arc<ServiceMetrics>,
    pub watch: Arc<ServiceWatch>,
    /// New requests wait.
    pub hold: Option<Arc<Hold>>,
    /// Some of its requests are copied; `None`: none are.
    pub mirrors: Option<Box<[Mirror]>>,
    /// Weights were changed live and differ from the file.
    pub overridden: bool,
    /// What was deployed live; `config` is what that makes of the file.
    pub deployment: Option<Arc<Deployment>>,
    /// Version of the snapshot in which its configuration or its weights last changed.
    pub revision: u64,
    /// Version of the snapshot for which it was made; those after it share it for as long as nothing changes.
    pub version: u64,
    /// No backend with a weight has an available endpoint: all of them are used.
    pub panicking: bool,
    /// A backend that gets nothing, with an ejected endpoint that one request may try out.
    pub on_trial: Option<usize>,
    /// Over the effective weights; `None` when no backend can take anything.
    split: Option<Split>,
    arms: Box<[Arm]>,
}

/// One deployment, with what it shares across snapshots.
#[derive(Debug)]
pub struct Backend {
    pub name: BackendName,
    /// What the file says.
    pub configured: Weight,
    /// What the file or an override says.
    pub wanted: Weight,
    /// What requests see: zero while the backend has no available endpoint, a growing part of `wanted` after that.
    pub effective: Weight,
    /// What runs there.
    pub revision: Arc<str>,
    /// Why it gets no new requests, or only as many as a trial takes.
    pub drain: Option<Arc<Drain>>,
    pub endpoints: Box<[Arc<Endpoint>]>,
    /// How many requests it may have under way while the share of a larger backend, which has failed, falls to it.
    pub overflow_limit: Option<u32>,
    pub metrics: Arc<BackendMetrics>,
    pub watch: Arc<BackendWatch>,
    /// Of its requests at once.
    pub limits: Option<BackendLimits>,
    pub limiter: Arc<Limiter>,
}

impl Backend {
    /// One of its endpoints, at least, could answer.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.health.is_available())
    }

    /// It gets no new requests at all.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.probation.is_none())
    }
}

impl Service {
    #[must_use]
    pub fn new(
        config: Arc<ServiceConfig>,
        backends: Box<[Backend]>,
        rate_limits: Box<[Arc<RateLimit>]>,
        metrics: Arc<ServiceMetrics>,
        watch: Arc<ServiceWatch>,
        revision: u64,
    ) -> Self {
        let weights: Vec<Weight> = backends.iter().map(|b| b.effective).collect();
        let arms = backends.iter().map(|b| Arm::new(b.name.as_str(), b.effective)).collect();
        let gets_none = |b: &Backend| b.effective.is_zero() && !b.wanted.is_zero() && b.drain.is_none();
        let due = |b: &Backend| gets_none(b) && b.endpoints.iter().any(|e| e.health.is_due());
        let on_trial = backends.iter().position(due);
        let guarded = config.access.is_some()
            || config.https_redirect.is_some()
            || config.maintenance.is_some()
            || config.body_max.is_some()
            || config.rollout.preview.iter().any(|preview| preview.host.is_some())
            || !rate_limits.is_empty();
        Self {
            config,
            split: Split::new(&weights),
            arms,
            backends,
            rate_limits,
            guarded,
            metrics,
            watch,
            hold: None,
            mirrors: None,
            overridden: false,
            deployment: None,
            panicking: false,
            on_trial,
            revision,
            version: 0,
        }
    }

    /// The same; whether somebody has changed its weights.
    pub(super) fn overridden(self, overridden: bool) -> Self {
        Self { overridden, ..self }
    }

    /// The same, made for the snapshot of this version.
    pub(super) fn made_for(self, version: u64) -> Self {
        Self { version, ..self }
    }

    /// The same; whether no backend with a weight has an available endpoint.
    pub(super) fn panicking(self, panicking: bool) -> Self {
        Self { panicking, ..self }
    }

    /// The same, with what was deployed live.
    pub(super) fn deployed(self, deployment: Option<Arc<Deployment>>) -> Self {
        Self { deployment, ..self }
    }

    /// The rollout that is under way.
    #[must_use]
    pub fn rollout(&self) -> Option<&OpenRollout> {
        self.deployment.as_ref()?.rollout.as_ref()
    }

    /// The same, whose new requests wait.
    #[must_use]
    pub fn held(self, hold: Arc<Hold>) -> Self {
        Self { guarded: true, hold: Some(hold), ..self }
    }

    /// The same, of whose requests some are copied.
    #[must_use]
    pub fn mirrored(self, mirrors: Box<[Mirror]>) -> Self {
        Self { mirrors: (!mirrors.is_empty()).then_some(mirrors), ..self }
    }

    #[must_use]
    pub fn name(&self) -> &ServiceName {
        &self.config.name
    }

    /// Requests see the same of both, as far as endpoints' health goes.
    #[must_use]
    pub fn is_as_healthy_as(&self, other: &Self) -> bool {
        let seen =
            |service: &Self| service.backends.iter().map(|b| (b.effective, b.overflow_limit)).collect::<Vec<_>>();
        self.panicking == other.panicking && self.on_trial == other.on_trial && seen(self) == seen(other)
    }

    /// The backend that a rule forces on this request. A drained one gets no new requests, forced ones included.
    #[must_use]
    pub fn forced(&self, facts: &RequestFacts<'_>) -> Option<usize> {
        let open = |rule: &&RuleConfig| !self.backends[rule.backend].is_drained();
        self.config.rules.iter().filter(open).find(|rule| facts.satisfies_rule(&rule.matches)).map(|rule| rule.backend)
    }

    #[must_use]
    pub fn backend(&self, name: &str) -> Option<&Backend> {
        self.backends.iter().find(|backend| backend.name.as_str() == name)
    }

    /// What the others are compared with, but for a rollout's candidate that has a baseline.
    #[must_use]
    pub fn stable(&self) -> &Backend {
        &self.backends[self.config.stable]
    }

    /// What this backend is compared with: stable, or a rollout's baseline.
    #[must_use]
    pub fn reference(&self, backend: &BackendName) -> &Backend {
        let open = self.rollout().filter(|open| open.candidate == *backend);
        let baseline = open.and_then(|open| self.backend(open.baseline.as_ref()?.as_str()));
        baseline.unwrap_or_else(|| self.stable())
    }

    /// A rollout's candidate is compared with it.
    #[must_use]
    pub fn is_baseline(&self, backend: &BackendName) -> bool {
        self.rollout().is_some_and(|open| open.baseline.as_ref() == Some(backend))
    }

    /// The backend of a uniform random draw.
    #[must_use]
    pub fn drawn(&self, draw: u64) -> Option<usize> {
        Some(self.split.as_ref()?.pick(draw))
    }

    /// The backend that a known client belongs to.
    #[must_use]
    pub fn sticky(&self, client: ClientKey) -> Option<usize> {
        choose(&self.arms, client)
    }
}
