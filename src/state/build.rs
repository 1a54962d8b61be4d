//! From a configuration to a snapshot, keeping what must outlive both: endpoints (with their connections in the
//! workers), counters, and what clients have left of rate limits.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use foldhash::fast::RandomState;
use http::HeaderValue;
use rustls::pki_types::ServerName;

use super::availability::set_effective;
use super::mirror::KeptMirror;
use super::{Backend, BackendWatch, Hold, Listener, ListenerKey, Mirror, RouteTable, Service, ServiceWatch};
use crate::config::{
    BackendConfig, Config, EndpointConfig, EndpointHost, PoolConfig, RateLimitConfig, Scheme, ServiceConfig,
};
use crate::model::{BackendName, Drain, LiveMirror, RouteMatch, ServiceName, Weight};
use crate::observe::{BackendMetrics, ServiceMetrics, SharedGauge};
use crate::rate_limit::RateLimit;
use crate::tls::ServerTls;
use crate::upstream::{Alarm, Endpoint, EndpointIdentity, EndpointTls, Health, Limiter};

/// Addresses of host names, as last resolved.
pub(super) type Resolved = HashMap<String, Vec<IpAddr>>;

/// Backends that get no new requests.
pub(super) type Drains = HashMap<(ServiceName, BackendName), Arc<Drain>>;

/// Mirrors whose share was set live.
pub(super) type LiveMirrors = HashMap<(ServiceName, BackendName), LiveMirror>;

/// What was changed live and concerns one service.
#[derive(Debug, Clone, Copy)]
pub(super) struct Live<'a> {
    /// In place of the file's.
    pub(super) weights: Option<&'a [Weight]>,
    pub(super) drains: &'a Drains,
    /// What its requests wait for.
    pub(super) hold: Option<&'a Arc<Hold>>,
    pub(super) mirrors: &'a LiveMirrors,
}

/// What outlives a snapshot.
#[derive(Debug)]
pub(super) struct Registry {
    workers: usize,
    next_endpoint_id: u64,
    endpoints: HashMap<EndpointIdentity, Arc<Endpoint>, RandomState>,
    backends: HashMap<(ServiceName, BackendName), KeptBackend, RandomState>,
    services: HashMap<ServiceName, (Arc<ServiceMetrics>, Arc<ServiceWatch>), RandomState>,
    rate_limits: HashMap<(ServiceName, RateLimitConfig), Arc<RateLimit>>,
    mirrors: HashMap<(ServiceName, BackendName), KeptMirror>,
    server_tls: ServerTls,
    open: HashMap<ListenerKey, Arc<SharedGauge>>,
    pub(super) alarm: Arc<Alarm>,
}

/// What a backend keeps across snapshots.
#[derive(Debug, Clone)]
struct KeptBackend {
    metrics: Arc<BackendMetrics>,
    watch: Arc<BackendWatch>,
    limiter: Arc<Limiter>,
}

impl Registry {
    pub(super) fn new(workers: usize, server_tls: ServerTls) -> Self {
        Self {
            workers,
            next_endpoint_id: 0,
            endpoints: HashMap::default(),
            backends: HashMap::default(),
            services: HashMap::default(),
            rate_limits: HashMap::new(),
            mirrors: HashMap::new(),
            server_tls,
            open: HashMap::new(),
            alarm: Arc::default(),
        }
    }

    /// A service with its live backends.
    pub(super) fn service(
        &mut self,
        config: &Arc<ServiceConfig>,
        live: Live<'_>,
        revision: u64,
        resolved: &Resolved,
    ) -> Service {
        let Live { weights, drains, hold, mirrors: shares } = live;
        let wanted = |index: usize, backend: &BackendConfig| weights.map_or(backend.weight, |w| w[index]);
        let backends = config.backends.iter().enumerate();
        let mut backends: Box<[Backend]> =
            backends.map(|(index, b)| self.backend(config, b, wanted(index, b), resolved)).collect();
        for backend in &mut backends {
            backend.drain = drains.get(&(config.name.clone(), backend.name.clone())).cloned();
        }
        let panicking = set_effective(&mut backends, config.stable);
        let rate_limits = config.rate_limits.iter().map(|limit| self.rate_limit(&config.name, limit)).collect();
        let known = self.services.entry(config.name.clone());
        let known = known.or_insert_with(|| (Arc::new(ServiceMetrics::new(self.workers)), Arc::default()));
        let (metrics, watch) = known.clone();
        let mirrors = config.mirrors.iter();
        let mirrors = mirrors.map(|mirror| {
            let key = (config.name.clone(), config.backends[mirror.backend].name.clone());
            // A rollout may mirror more than the file does; a live share stands for the file's alone.
            let live = shares.get(&key).filter(|live| live.replaced == mirror.percent).map(|live| live.percent);
            let kept = self.mirrors.entry(key).or_insert_with(|| KeptMirror::new(self.workers)).clone();
            Mirror::new(config, mirror, live, kept)
        });
        let mirrors = mirrors.collect();
        let config = Arc::clone(config);
        let service = Service::new(config, backends, rate_limits, metrics, watch, revision);
        let service = service.panicking(panicking).mirrored(mirrors);
        match hold {
            Some(hold) => service.held(Arc::clone(hold)),
            None => service,
        }
    }

    /// A limit that stays as it is keeps what it knows of its clients.
    fn rate_limit(&mut self, service: &ServiceName, config: &RateLimitConfig) -> Arc<RateLimit> {
        let known = self.rate_limits.entry((service.clone(), config.clone()));
        Arc::clone(known.or_insert_with(|| Arc::new(RateLimit::new(config))))
    }

    fn backend(
        &mut self,
        service: &ServiceConfig,
        config: &BackendConfig,
        wanted: Weight,
        resolved: &Resolved,
    ) -> Backend {
        let known = self.backends.entry((service.name.clone(), config.name.clone()));
        let known = known.or_insert_with(|| KeptBackend {
            metrics: Arc::new(BackendMetrics::new(self.workers)),
            watch: Arc::default(),
            limiter: Arc::default(),
        });
        let KeptBackend { metrics, watch, limiter } = known.clone();
        let endpoints: Box<[Arc<Endpoint>]> = config
            .endpoints
            .iter()
            .flat_map(|endpoint| addresses(endpoint, resolved).into_iter().map(move |address| (endpoint, address)))
            .map(|(endpoint, address)| self.endpoint(&service.name, config, endpoint, address, &limiter))
            .collect();
        let streak_max = service.ejection.map(|ejection| ejection.consecutive);
        for endpoint in &endpoints {
            endpoint.health.configure(streak_max, service.slow_start);
            endpoint.limit.set(config.limits.and_then(|limits| limits.requests_per_endpoint));
        }
        Backend {
            name: config.name.clone(),
            configured: config.weight,
            wanted,
            // Decided once all backends of the service are known.
            effective: Weight::ZERO,
            revision: config.revision.as_str().into(),
            drain: None,
            endpoints,
            overflow_limit: None,
            metrics,
            watch,
            limits: config.limits,
            limiter,
        }
    }

    fn endpoint(
        &mut self,
        service: &ServiceName,
        backend: &BackendConfig,
        config: &EndpointConfig,
        address: SocketAddr,
        limiter: &Arc<Limiter>,
    ) -> Arc<Endpoint> {
        let host = match &config.host {
            EndpointHost::Address(address) => address.to_string(),
            EndpointHost::Name(name) => name.clone(),
        };
        let tls = backend.tls.as_ref().filter(|_| config.scheme == Scheme::Https);
        let identity = EndpointIdentity {
            service: service.clone(),
            backend: backend.name.clone(),
            scheme: config.scheme,
            authority: authority(&config.host, config.port),
            host,
            address,
            protocol: backend.protocol,
            proxy_protocol: backend.proxy_protocol,
            tls_fingerprint: tls.map(|tls| tls.fingerprint),
            // A connection that begins with one client's address isn't another's.
            pool: match backend.proxy_protocol {
                None => backend.pool.into(),
                Some(_) => PoolConfig { idle_max: 0, ..backend.pool }.into(),
            },
        };
        if let Some(known) = self.endpoints.get(&identity) {
            return Arc::clone(known);
        }
        let tls = tls.map(|tls| EndpointTls {
            server_name: tls.server_name.clone().unwrap_or_else(|| server_name(&config.host)),
            config: Arc::clone(tls),
        });
        self.next_endpoint_id += 1;
        let health = Health::new(self.workers, Arc::clone(&self.alarm));
        let limiter = Arc::clone(limiter);
        let endpoint = Arc::new(Endpoint::new(self.next_endpoint_id, identity.clone(), tls, health, limiter));
        self.endpoints.insert(identity, Arc::clone(&endpoint));
        endpoint
    }

    /// Lets go of what none of `services`, all there are, has any more: endpoints retire, counters are forgotten.
    pub(super) fn prune(&mut self, services: &[Arc<Service>]) {
        let backends = || services.iter().flat_map(|s| s.backends.iter().map(move |b| (s.name(), b)));
        let endpoints: HashSet<u64, RandomState> = backends().flat_map(|(_, b)| &b.endpoints).map(|e| e.id).collect();
        self.endpoints.retain(|_, endpoint| {
            let kept = endpoints.contains(&endpoint.id);
            if !kept {
                endpoint.retire();
            }
            kept
        });
        let names: HashSet<_, RandomState> = backends().map(|(service, b)| (service, &b.name)).collect();
        self.backends.retain(|(service, backend), _| names.contains(&(service, backend)));
        let mirrors = services.iter().flat_map(|s| s.mirrors.iter().flatten().map(move |m| (s.name(), &m.backend)));
        let mirrors: HashSet<_, RandomState> = mirrors.collect();
        self.mirrors.retain(|(service, backend), _| mirrors.contains(&(service, backend)));
        let configs: HashMap<_, _, RandomState> = services.iter().map(|s| (s.name(), &s.config)).collect();
        self.services.retain(|service, _| configs.contains_key(service));
        self.rate_limits.retain(|(service, limit), _| {
            configs.get(service).is_some_and(|config| config.rate_limits.contains(limit))
        });
    }

    /// The listeners as connections see them.
    ///
    /// # Errors
    /// When rustls refuses a certificate that was fine when it was read.
    pub(super) fn listeners(&mut self, config: &Config) -> Result<Arc<[Arc<Listener>]>, rustls::Error> {
        self.open.retain(|key, open| open.value() > 0 || ListenerKey::all(config).any(|(other, _)| other == *key));
        let listeners = ListenerKey::all(config).map(|(key, listener)| {
            let tls = (!listener.tls.is_empty())
                .then(|| self.server_tls.config(&listener.tls, listener.client_auth.as_ref()))
                .transpose()?;
            let open = Arc::clone(self.open.entry(key).or_default());
            Ok(Arc::new(Listener {
                key,
                address: listener.address,
                tls,
                connections: listener.connections,
                open,
                proxy_protocol: Arc::clone(&listener.proxy_protocol),
            }))
        });
        listeners.collect()
    }
}

/// The route table of a configuration; services are numbered in its order.
pub(super) fn routes(config: &Config) -> RouteTable {
    let routes = config.services.iter().enumerate();
    let routes = routes.flat_map(|(index, service)| {
        let shown = service.rollout.preview_hosts().into_iter().map(RouteMatch::of_host);
        // After the service's own, whose numbers stay what they are.
        service.routes.iter().cloned().chain(shown).map(move |route| (index, route))
    });
    RouteTable::new(routes, config.services.iter().position(|service| service.routes.is_empty()))
}

fn addresses(endpoint: &EndpointConfig, resolved: &Resolved) -> Vec<SocketAddr> {
    let found = match &endpoint.host {
        EndpointHost::Address(address) => vec![*address],
        EndpointHost::Name(name) => resolved.get(name).cloned().unwrap_or_default(),
    };
    found.into_iter().map(|address| SocketAddr::new(address, endpoint.port)).collect()
}

fn authority(host: &EndpointHost, port: u16) -> HeaderValue {
    let authority = match host {
        EndpointHost::Address(address) => SocketAddr::new(*address, port).to_string(),
        EndpointHost::Name(name) => format!("{name}:{port}"),
    };
    HeaderValue::try_from(authority).expect("addresses and DNS names are plain ASCII")
}

fn server_name(host: &EndpointHost) -> ServerName<'static> {
    match host {
        EndpointHost::Address(address) => ServerName::from(*address),
        EndpointHost::Name(name) => {
            ServerName::try_from(name.clone()).expect("the configuration accepts DNS names only")
        }
    }
}
