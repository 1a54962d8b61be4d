//! What proxy.toml means: checked, plain, immutable. Nothing downstream has to check any of it again.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use ipnet::IpNet;

use super::gates::GatesConfig;
use super::preview::PreviewConfig;
use crate::model::{
    AccessList, BackendName, Coding, ContentTypes, FailureSet, GuardMode, HeaderChanges, JsonPath, NetworkSet, Page,
    Pattern, Percent, Plan, ProxyVersion, RouteId, RouteMatch, RuleMatch, ServiceName, Sticky, Weight,
};
use crate::tls::{CertifiedPair, ClientAuth, UpstreamTls};

/// One whole, valid configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// Relative paths in the file, this one too, start at the file's folder.
    pub state_dir: PathBuf,
    /// Data-plane threads; `None`: one per core.
    pub workers: Option<NonZeroUsize>,
    /// At least one.
    pub listeners: Vec<ListenerConfig>,
    pub forwarding: Arc<ForwardingConfig>,
    pub admin: Option<AdminConfig>,
    /// In the order of the file. One that says what it said before is the same `Arc` across reloads.
    pub services: Vec<Arc<ServiceConfig>>,
    /// Who outside is told of events.
    pub notify: Vec<super::SinkConfig>,
    pub limits: ClientLimits,
    pub timeouts: ClientTimeouts,
    pub shutdown: ShutdownConfig,
    pub access_log: AccessLogOutput,
    pub log: LogConfig,
    /// How often host names of endpoints are resolved again.
    pub resolve_interval: Duration,
    /// For requests that no service takes.
    pub errors: ErrorPages,
}

impl Config {
    /// Services that say what they said in `previous` become what they were there, so that nobody need look at them again.
    pub(super) fn keep(&mut self, previous: &Self) {
        let known: HashMap<_, _> = previous.services.iter().map(|service| (&service.name, service)).collect();
        for service in &mut self.services {
            if let Some(known) = known.get(&service.name).filter(|known| ***known == *service) {
                *service = Arc::clone(known);
            }
        }
    }
}

/// What clients see of the answers that tidegate makes itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ErrorPages {
    /// `None`: what is built in.
    pub html: Option<Page>,
    /// `None`: what is built in.
    pub json: Option<Page>,
    /// The answer says its reason in a header.
    pub header: bool,
}

/// One bound address.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    pub address: SocketAddr,
    /// Empty: plain text. The first pair answers clients that name no host, or one that no certificate names.
    pub tls: Vec<Arc<CertifiedPair>>,
    /// Client connections open at once.
    pub connections: Option<u64>,
    /// Connections begin with a PROXY header, and may come only from here; empty: they don't.
    pub proxy_protocol: Arc<[IpNet]>,
    /// Clients show certificates.
    pub client_auth: Option<ClientAuth>,
}

/// Who is believed about clients, and in which words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trust {
    /// Peers whose word about clients is believed.
    pub proxies: Vec<IpNet>,
    /// The headers that they are believed in.
    pub dialect: Dialect,
    /// They are believed about clients' certificates, too.
    pub client_cert: bool,
}

/// A family of headers that proxies tell of clients in. What comes in another is taken for a stranger's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// `X-Forwarded-For` and its like.
    #[default]
    XForwarded,
    /// RFC 7239.
    Forwarded,
    /// `X-Forwarded-For` where it is there, otherwise `Forwarded`.
    Both,
}

/// Who is believed about clients, and what is told on.
#[derive(Debug, Clone, PartialEq)]
pub struct ForwardingConfig {
    pub trust: Trust,
    /// Our name in `Via`, a token; `None`: there is no `Via` of ours.
    pub via: Option<String>,
    /// Requests have `Forwarded`, too.
    pub forwarded: bool,
    /// Endpoints' responses have `x-request-id`.
    pub return_request_id: bool,
    /// The share of traces started by us that is recorded, from 0 to 1; `None`: none is started.
    pub trace_sample: Option<f64>,
}

/// The address of the admin API.
#[derive(Debug, Clone)]
pub struct AdminConfig {
    pub address: SocketAddr,
    /// Asked of every caller when set; there must be one when the address is not loopback.
    pub token: Option<Secret>,
}

/// Text that never appears in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself; the caller keeps it out of sight.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// A named application.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceConfig {
    pub name: ServiceName,
    /// Empty: takes everything that no other service takes. At most one service is so.
    pub routes: Vec<RouteMatch>,
    /// What each of `routes` is called across reloads.
    pub route_ids: Vec<RouteId>,
    /// At least one, in the order of the file; at least one has a weight above zero.
    pub backends: Vec<BackendConfig>,
    /// Index in `backends`; the largest weight's when the file doesn't say.
    pub stable: usize,
    pub sticky: Option<Sticky>,
    /// `None`: everybody is let in.
    pub access: Option<AccessList>,
    /// Requests without TLS are sent to this port.
    pub https_redirect: Option<u16>,
    /// The value of `Strict-Transport-Security`.
    pub hsts: Option<HeaderValue>,
    /// All of them must be kept.
    pub rate_limits: Vec<RateLimitConfig>,
    /// Tried in order, before the split.
    pub rules: Vec<RuleConfig>,
    pub timeouts: RequestTimeouts,
    /// The largest body of a request, in bytes.
    pub body_max: Option<u64>,
    pub attempts: AttemptsConfig,
    pub request_headers: Option<HeaderChanges>,
    pub response_headers: Option<HeaderChanges>,
    pub errors: ErrorPages,
    /// `None` while everybody gets through.
    pub maintenance: Option<MaintenanceConfig>,
    /// `None`: answers are left as they are.
    pub compression: Option<CompressionConfig>,
    /// Never more than `Observe` where which backend is stable is a guess.
    pub guard: GuardMode,
    /// `None`: what the guard has drained waits for a person or a new revision.
    pub probation: Option<ProbationConfig>,
    /// Routes that the guard judges by themselves, too.
    pub judged_routes: Vec<RouteId>,
    /// `None`: what requests come to makes nobody avoid an endpoint.
    pub ejection: Option<EjectionConfig>,
    /// How long the share of an endpoint grows after it has recovered.
    pub slow_start: Duration,
    /// Each for a backend of its own; at most [`MIRRORS_MAX`].
    pub mirrors: Vec<Arc<MirrorConfig>>,
    pub rollout: Arc<RolloutConfig>,
}

impl ServiceConfig {
    /// Whether an endpoint's address is somebody else's to say.
    #[must_use]
    pub fn has_host_names(&self) -> bool {
        let mut endpoints = self.backends.iter().flat_map(|backend| &backend.endpoints);
        endpoints.any(|endpoint| matches!(endpoint.host, EndpointHost::Name(_)))
    }
}

/// How the service's rollouts go.
#[derive(Debug, Clone, PartialEq)]
pub struct RolloutConfig {
    pub plan: Plan,
    /// Who gets the candidate first: requests that one of them takes. Empty where the plan has no step for them.
    pub cohort: Vec<RuleMatch>,
    /// Who gets it for as long as a rollout is under way, whatever its step.
    pub preview: Vec<PreviewConfig>,
    /// How copies for each of the service's backends are made and compared; empty where the plan has no step for them.
    pub mirrors: Vec<Arc<MirrorConfig>>,
    /// Who else has to say yes, and when nobody may.
    pub gates: GatesConfig,
}

/// Mirrors of one service.
pub const MIRRORS_MAX: usize = 8;

/// Which requests are copied, and where to.
#[derive(Debug, Clone, PartialEq)]
pub struct MirrorConfig {
    /// Index in the service's `backends`.
    pub backend: usize,
    pub percent: Percent,
    pub by: MirrorBy,
    /// Sorted; at least one.
    pub methods: Vec<Method>,
    /// One of them must hold; empty: all requests.
    pub routes: Vec<RouteMatch>,
    /// All of it must hold; `None`: all requests.
    pub conditions: Option<RuleMatch>,
    /// From the request's last byte to the end of the answer.
    pub timeout: Duration,
    /// Over all workers.
    pub requests_max: u32,
    /// Copies that wait.
    pub queue: u32,
    /// Bytes of a request's body that are held for one copy.
    pub body_max: usize,
    pub large_body: LargeBody,
    /// Bytes of an answer that are read.
    pub answer_max: u64,
    /// Made of what a host name can have.
    pub host_suffix: Option<String>,
    pub redact: RedactConfig,
    /// `None`: nobody looks at the answers.
    pub compare: Option<Arc<CompareConfig>>,
}

/// What is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MirrorBy {
    Request,
    /// A client with all of its requests.
    Client,
}

/// What becomes of the copy of a request whose body is larger than what is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LargeBody {
    /// There is none: copies are sent once the body has come.
    Skip,
    /// It is sent as it comes, unless its backend is slower than the client.
    Stream,
}

/// What copies lack.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RedactConfig {
    pub headers: Vec<HeaderName>,
    pub cookies: Vec<String>,
}

/// What of the answers is compared, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct CompareConfig {
    /// Without `content-type`, which is always looked at.
    pub headers: Vec<HeaderName>,
    pub body_max: usize,
    /// A second copy goes to the backend that answers the client.
    pub noise: bool,
    /// Places in JSON bodies that may differ, with all below them.
    pub ignore: Vec<JsonPath>,
    /// More names whose values are never kept.
    pub redact: Vec<String>,
    /// Kept in all, each of another difference.
    pub examples: usize,
    /// Part of the answers that may really differ of what is the same, above 0 and at most 0.5.
    pub tolerated: f64,
    /// Of a wrong verdict, either way; above 0 and at most 0.5.
    pub alpha: f64,
}

impl ServiceConfig {
    /// The conditions of a route, if it is still there.
    #[must_use]
    pub fn route(&self, id: RouteId) -> Option<&RouteMatch> {
        self.route_ids.iter().zip(&self.routes).find(|(known, _)| **known == id).map(|(_, route)| route)
    }
}

/// How a backend that the guard has drained may prove itself again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProbationConfig {
    /// The first pause.
    pub after: Duration,
    /// Of the service's requests, above 0 and at most 0.1.
    pub share: f64,
    /// How long it must do well.
    pub pass: Duration,
}

/// When a service's requests are tried again, and where.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttemptsConfig {
    /// On another endpoint of the same backend.
    pub retry: Option<RetryConfig>,
    /// By stable, in place of another backend.
    pub rescue: Option<RescueConfig>,
    /// For both of them, and for hedges.
    pub budget: BudgetConfig,
    /// To do any of its requests twice is to do it once, whatever the method.
    pub idempotent: bool,
    /// Bytes of a request's body that are kept for sending it again.
    pub replay_buffer: usize,
    /// Answers say which backend they come from.
    pub tell_backend: bool,
}

/// When a request is sent again to another endpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryConfig {
    /// At least 1: the first.
    pub attempts: u32,
    pub on: FailureSet,
    /// From the request's last byte, or from the attempt's begin, to the head of its answer.
    pub per_try: Option<Duration>,
}

/// How many attempts there may be besides the requests' first ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BudgetConfig {
    /// Of the service's requests, from 0 to 1.
    pub share: f64,
    /// A second, however few requests there are.
    pub floor: u32,
}

/// When stable answers in place of another backend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RescueConfig {
    pub on: FailureSet,
    /// Requests with `Idempotency-Key` may be sent twice.
    pub idempotency_key: bool,
}

/// When an endpoint's failures take it out, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EjectionConfig {
    /// Failures in a row, over all workers.
    pub consecutive: u32,
    /// Failed part of what ended in `window`, above 0 and at most 1.
    pub ratio: f64,
    pub window: Duration,
    /// With less in `window`, `ratio` says nothing.
    pub min_requests: u64,
    /// The first time; twice as long the second in a row, and so on.
    pub time: Duration,
    pub time_max: Duration,
}

/// How each endpoint of a backend is asked whether it is well.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheckConfig {
    pub kind: HealthCheckKind,
    pub interval: Duration,
    /// From the connect to the end of the answer.
    pub timeout: Duration,
    /// Good checks in a row until it gets requests again.
    pub rise: u32,
    /// Failed ones until it gets none.
    pub fall: u32,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum HealthCheckKind {
    Http(HttpCheckConfig),
    /// grpc.health.v1's `Check`, of this service; empty: of the server as a whole.
    Grpc {
        service: String,
        /// `None`: the endpoint's own.
        host: Option<HeaderValue>,
    },
    /// A connection can be opened, with TLS where the endpoints have it.
    Tcp,
}

/// One request and what its answer has to be.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpCheckConfig {
    pub method: Method,
    /// With its query.
    pub path: PathAndQuery,
    /// `None`: the endpoint's own.
    pub host: Option<HeaderValue>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// At least one.
    pub statuses: Vec<RangeInclusive<u16>>,
    /// What the beginning of the body has to contain.
    pub body: Option<Pattern>,
}

/// What stands in for a service's endpoints.
#[derive(Debug, Clone, PartialEq)]
pub struct MaintenanceConfig {
    pub status: StatusCode,
    /// Ready to be sent.
    pub retry_after: Option<HeaderValue>,
    /// `None`: as for errors.
    pub html: Option<Page>,
    /// `None`: as for errors.
    pub json: Option<Page>,
    /// Clients that get through.
    pub allow: NetworkSet,
}

/// Which answers are compressed, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompressionConfig {
    /// At least one, each once; our first choice first.
    pub codings: Vec<Coding>,
    /// Answers of a known length below this are left alone.
    pub min_bytes: u64,
    pub types: ContentTypes,
    /// Per worker.
    pub at_once: u32,
}

/// How many requests each client may make.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RateLimitConfig {
    pub requests: NonZeroU32,
    pub per: Duration,
    /// How many may come at once.
    pub burst: NonZeroU32,
    pub by: RateLimitBy,
    /// Clients kept apart at a time.
    pub clients_max: usize,
}

/// What tells clients apart. Those that lack the cookie or header are told apart by address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RateLimitBy {
    Cookie(String),
    Header(HeaderName),
    /// Leading bits of the address.
    Network {
        ipv4_bits: u8,
        ipv6_bits: u8,
    },
}

/// A rule that forces a backend, before the split.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleConfig {
    pub matches: RuleMatch,
    /// Index in the service's `backends`.
    pub backend: usize,
}

/// One deployment of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendConfig {
    pub name: BackendName,
    pub weight: Weight,
    /// What runs there; the endpoints stand for it where the file doesn't say.
    pub revision: String,
    /// At least one.
    pub endpoints: Vec<EndpointConfig>,
    pub protocol: UpstreamProtocol,
    /// Each connection begins with a PROXY header, and carries one client's request.
    pub proxy_protocol: Option<ProxyVersion>,
    /// For `https` endpoints; shared by all of them. Equal files give the same `Arc` across reloads, so that
    /// connections survive.
    pub tls: Option<Arc<UpstreamTls>>,
    pub pool: PoolConfig,
    /// `None`: nobody asks them.
    pub health: Option<Arc<HealthCheckConfig>>,
    /// `None`: any number of requests at once.
    pub limits: Option<BackendLimits>,
}

/// Requests at once, of all workers together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendLimits {
    pub requests: Option<u32>,
    pub requests_per_endpoint: Option<u32>,
    /// The most that wait.
    pub queue: u32,
    /// How long one waits.
    pub queue_timeout: Duration,
}

/// No limit, and the line of one that comes later.
impl Default for BackendLimits {
    fn default() -> Self {
        Self { requests: None, requests_per_endpoint: None, queue: 100, queue_timeout: Duration::from_secs(1) }
    }
}

/// One address of a backend, as configured.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointConfig {
    pub scheme: Scheme,
    pub host: EndpointHost,
    pub port: u16,
}

impl fmt::Display for EndpointConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        match &self.host {
            EndpointHost::Address(address) => write!(f, "{scheme}://{}", SocketAddr::new(*address, self.port)),
            EndpointHost::Name(name) => write!(f, "{scheme}://{name}:{}", self.port),
        }
    }
}

/// An endpoint's host: an address, or a name that is resolved again and again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EndpointHost {
    Address(std::net::IpAddr),
    /// Lower case.
    Name(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

/// What is spoken to the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpstreamProtocol {
    Http1,
    /// By prior knowledge on `http`, by ALPN on `https`.
    Http2,
}

/// Idle connections kept to one endpoint by one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolConfig {
    pub idle_max: usize,
    /// Kept below the keep-alive time of common servers (5 s in Node.js), so that they rarely close first.
    pub idle_timeout: Duration,
}

/// How much clients may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimits {
    /// Open at once, on all listeners; `None`: what the limit of open files allows.
    pub connections: Option<u64>,
    /// Open at once from one IPv4 address or one IPv6 /64.
    pub connections_per_client: Option<u32>,
    pub requests_per_connection: u64,
    /// One request's head: its size in HTTP/1, whatever the protocol.
    pub header_bytes: u32,
    /// Fields of one head, each cookie crumb of HTTP/2 for itself.
    pub headers: usize,
    /// Requests at once on one HTTP/2 connection.
    pub streams: u32,
    /// What a client may send before we have passed it on, per HTTP/2 request and in all.
    pub stream_window: u32,
    pub connection_window: u32,
    /// Of a path with its query.
    pub uri_bytes: usize,
    /// Bytes of a body that a client must send within the time that it may stand still.
    pub body_pace: u64,
    /// Bytes of the whole process; `None`: what the machine has, less a fifth.
    pub memory: Option<u64>,
    /// Bytes of bodies that mirrors hold.
    pub mirror_memory: u64,
}

/// How long a client may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientTimeouts {
    pub tls_handshake: Duration,
    /// From a request's first byte to the end of its head.
    pub header_read: Duration,
    /// Between two requests, and before the first.
    pub keep_alive: Duration,
    /// A tunnel (WebSocket) with no byte either way; a lasting answer with none.
    pub tunnel_idle: Duration,
    /// An answer of which the client takes nothing.
    pub body_idle: Duration,
}

/// How long a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestTimeouts {
    /// TCP connect, and the TLS handshake after it.
    pub connect: Duration,
    /// From the request's last byte to the response's head.
    pub response_header: Duration,
    /// How long, from the first refusal, requests wait for a backend that refuses connections.
    pub restart_wait: Duration,
    /// A body under way whose sender sends nothing.
    pub body_idle: Duration,
    /// From the request's head to the end of its answer.
    pub request: Option<Duration>,
}

/// Deadlines of a graceful stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShutdownConfig {
    /// `/readyz` says no this long before new connections are refused, so that a load balancer in front can move on.
    pub delay: Duration,
    pub requests: Duration,
    /// For tunnels, server-sent events and gRPC streams.
    pub streams: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLogOutput {
    Off,
    Stdout,
    File(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// A `tracing` filter: `info`, `debug`, `tidegate=debug,warn`.
    pub filter: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}
