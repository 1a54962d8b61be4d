//! A service: who may ask for it, what it answers by itself, how often it is tried.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    BackendFile, DurationText, EjectionFile, MirrorsFile, RolloutFile, RouteFile, RuleFile, SizeText, StickyFile,
    duration, words,
};
use crate::config::table::Table;

/// One application and its deployments.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ServiceFile {
    /// Which requests it takes; left out: all that no other service takes.
    #[schemars(length(min = 1))]
    pub(in crate::config) routes: Option<Vec<RouteFile>>,
    /// The backend that others are compared with; the one with the largest weight when left out.
    pub(in crate::config) stable: Option<String>,
    /// Keeps each client on one backend: { cookie = "NAME" }, { header = "NAME" } or { network = {} }.
    pub(in crate::config) sticky: Option<StickyFile>,
    /// Client networks that may use the service, like ["10.0.0.0/8", "2001:db8::/32"]; everybody when left out.
    #[schemars(length(min = 1))]
    pub(in crate::config) allow: Option<Vec<String>>,
    /// Client networks that may not use the service, like ["192.0.2.0/24"], even if allow names them.
    #[schemars(length(min = 1))]
    pub(in crate::config) deny: Option<Vec<String>>,
    /// "redirect": requests that come without TLS are sent to https.
    pub(in crate::config) https: Option<HttpsFile>,
    /// The port that https = "redirect" sends clients to, if not 443.
    #[schemars(range(min = 1, max = 65535))]
    pub(in crate::config) https_port: Option<u16>,
    /// Tells browsers to use https alone for this long, like "365d" or { max_age = "365d", include_subdomains = true }.
    pub(in crate::config) hsts: Option<HstsFile>,
    /// How many requests each client may make: [{ requests = 100, per = "1s" }]; every limit must be kept.
    #[serde(default)]
    pub(in crate::config) rate_limits: Vec<RateLimitFile>,
    /// Requests that go to one backend whatever the weights, tried in order.
    #[serde(default)]
    pub(in crate::config) rules: Vec<RuleFile>,
    /// How long this service's requests may take: { connect = "3s", response_header = "60s" } and others.
    pub(in crate::config) timeouts: Option<ServiceTimeoutsFile>,
    /// The largest body of a request, like "10MiB"; no limit when left out.
    pub(in crate::config) body_max: Option<SizeText>,
    /// When a request is sent again to another endpoint: { attempts = 3 } and others, or "off".
    pub(in crate::config) retry: Option<RetryFile>,
    /// When stable answers in place of another backend that failed: { idempotency_key = true } and others, or "off".
    pub(in crate::config) rescue: Option<RescueFile>,
    /// true: to do any of its requests twice is to do it once, whatever the method; gRPC needs it to be sent again.
    #[serde(default)]
    pub(in crate::config) idempotent: bool,
    /// How much of a request's body is kept for sending it again, like "64KiB"; "0B" for none.
    pub(in crate::config) replay_buffer: Option<SizeText>,
    /// true: the answer's tidegate-backend header says which backend it came from; false unless said.
    #[serde(default)]
    pub(in crate::config) backend_header: bool,
    /// What is changed in the headers of its requests: { set = { name = "value" }, add = { … }, remove = ["name"] }.
    pub(in crate::config) request_headers: Option<HeaderChangesFile>,
    /// What is changed in the headers of its endpoints' responses: { set = { name = "value" }, add = { … }, remove = ["name"] }.
    pub(in crate::config) response_headers: Option<HeaderChangesFile>,
    /// What this service's clients get from tidegate itself: { html = "error.html" }; the rest is as in [errors].
    pub(in crate::config) errors: Option<ErrorsFile>,
    /// Answers instead of the endpoints: [services.NAME.maintenance] with enabled = true.
    pub(in crate::config) maintenance: Option<MaintenanceFile>,
    /// Compresses answers for clients that take it: { algorithms = ["zstd", "br", "gzip"] } and others, or {}.
    pub(in crate::config) compression: Option<CompressionFile>,
    /// What happens to a backend that fails more often than stable: "drain" it, "observe" and tell, or "off"; "drain" when left out.
    pub(in crate::config) guard: Option<GuardFile>,
    /// Lets a backend that the guard has drained prove itself again: { after = "10m", percent = 1 }; left out: a person decides.
    pub(in crate::config) probation: Option<ProbationFile>,
    /// Takes out endpoints whose requests fail: { consecutive = 5, ratio = 0.5 } and others, or "off".
    #[serde(default)]
    pub(in crate::config) ejection: EjectionFile,
    /// How long an endpoint's share of requests grows after it has recovered, like "30s"; "0s": not at all.
    #[serde(default = "slow_start")]
    pub(in crate::config) slow_start: DurationText,
    /// Copies of its requests for a backend that answers nobody: { backend = "NAME" } and others, or a list of such tables.
    pub(in crate::config) mirror: Option<MirrorsFile>,
    /// How a new release is rolled out: [services.NAME.rollout] with strategy = "canary" and others.
    #[serde(default)]
    pub(in crate::config) rollout: RolloutFile,
    /// The deployments that share the service's requests, at least one: [services.NAME.backends.NAME].
    pub(in crate::config) backends: Table<BackendFile>,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(in crate::config) enum GuardFile {
    Drain,
    Observe,
    Off,
}

/// How a drained backend may prove itself again.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct ProbationFile {
    /// How long it stays drained the first time, like "10m"; twice as long each time it fails again.
    pub(in crate::config) after: DurationText,
    /// Its share of the service's requests meanwhile, in percent, above 0 and at most 10.
    pub(in crate::config) percent: f64,
    /// How long it must do well to get its own weight back, like "10m".
    pub(in crate::config) pass: DurationText,
}

/// Answers that tidegate makes itself. Files may contain {status}, {title} and {request_id}.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ErrorsFile {
    /// File for clients that want HTML; a plain page is built in.
    pub(in crate::config) html: Option<String>,
    /// File for clients that want JSON; RFC 9457's form is built in.
    pub(in crate::config) json: Option<String>,
    /// true: the answer's tidegate-error header says the reason; false unless said.
    pub(in crate::config) header: Option<bool>,
}

/// Answers instead of a service's endpoints. Files may contain {status}, {title} and {request_id}.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct MaintenanceFile {
    /// true: nobody but `allow` gets through; false: everybody.
    pub(in crate::config) enabled: bool,
    /// Status of the answer, from 400 to 599.
    #[serde(default = "maintenance_status")]
    #[schemars(range(min = 400, max = 599))]
    pub(in crate::config) status: u16,
    /// When to come back, like "5m": the answer's Retry-After; left out: there is none.
    pub(in crate::config) retry_after: Option<DurationText>,
    /// File for clients that want HTML; left out: as in errors.
    pub(in crate::config) html: Option<String>,
    /// File for clients that want JSON; left out: as in errors.
    pub(in crate::config) json: Option<String>,
    /// Client addresses that get through: ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"].
    #[serde(default)]
    pub(in crate::config) allow: Vec<String>,
}

/// Compresses answers for clients that take it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct CompressionFile {
    /// In order of preference, where the client has none: ["zstd", "br", "gzip"].
    #[schemars(length(min = 1))]
    pub(in crate::config) algorithms: Vec<AlgorithmFile>,
    /// Answers that are known to be shorter than this are left alone, like "1KiB".
    pub(in crate::config) min_bytes: SizeText,
    /// Content types: "text/html", all of a kind "text/*", or a suffix "+json"; a common list when left out.
    #[schemars(length(min = 1))]
    pub(in crate::config) types: Option<Vec<String>>,
    /// Answers under compression at once, for each worker; more are sent as they are.
    #[schemars(range(min = 1, max = 65536))]
    pub(in crate::config) at_once: u32,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(in crate::config) enum AlgorithmFile {
    Zstd,
    Br,
    Gzip,
}

/// How many leading bits of a client's address count.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct NetworkFile {
    /// Bits of IPv4 addresses, from 1 to 32.
    #[schemars(range(min = 1, max = 32))]
    pub(in crate::config) ipv4: u8,
    /// Bits of IPv6 addresses, from 1 to 128.
    #[schemars(range(min = 1, max = 128))]
    pub(in crate::config) ipv6: u8,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(in crate::config) enum HttpsFile {
    Redirect,
}

/// How long browsers use https alone, like "365d", or a table that says more.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(in crate::config) enum HstsFile {
    Age(String),
    Full(HstsTableFile),
}

/// What browsers are told about https.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct HstsTableFile {
    /// How long browsers use https alone, like "365d"; "0s" makes them forget it.
    pub(in crate::config) max_age: DurationText,
    /// true: for all names below this one, too.
    #[serde(default)]
    pub(in crate::config) include_subdomains: bool,
    /// true: browsers may ship it; needs include_subdomains and "365d".
    #[serde(default)]
    pub(in crate::config) preload: bool,
}

/// How many requests each client may make.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RateLimitFile {
    /// How many requests, in the long run, in each span of per.
    #[schemars(range(min = 1, max = 4294967295u32))]
    pub(in crate::config) requests: u32,
    /// The span, like "1s" or "1m".
    pub(in crate::config) per: DurationText,
    /// How many may come at once after a pause; as many as requests when left out.
    #[schemars(range(min = 1, max = 4294967295u32))]
    pub(in crate::config) burst: Option<u32>,
    /// What a client is: { header = "NAME" }, { cookie = "NAME" } or { network = {} }; its address when left out.
    pub(in crate::config) by: Option<RateLimitByFile>,
    /// How many clients are kept apart at a time, at up to 40 bytes each; those beyond share one allowance.
    #[serde(default = "clients_max")]
    #[schemars(range(min = 1, max = 10000000))]
    pub(in crate::config) clients_max: usize,
}

/// What tells clients apart: exactly one of cookie, header and network.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RateLimitByFile {
    /// Name of a cookie that the application sets.
    pub(in crate::config) cookie: Option<String>,
    /// Name of a header that tells clients apart.
    pub(in crate::config) header: Option<String>,
    /// Leading bits of the client's address that tell clients apart: { ipv4 = 32, ipv6 = 64 }.
    pub(in crate::config) network: Option<NetworkFile>,
}

/// Changes to headers, made in the order remove, set, add.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct HeaderChangesFile {
    /// Values by name, in place of those that were there: { name = "value" }.
    #[serde(default)]
    pub(in crate::config) set: Table<String>,
    /// Values by name, besides those that were there: { name = "value" }.
    #[serde(default)]
    pub(in crate::config) add: Table<String>,
    /// Names of headers that go: ["name"].
    #[serde(default)]
    pub(in crate::config) remove: Vec<String>,
}

/// How long one service's requests may take; what is left out is taken from [timeouts].
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ServiceTimeoutsFile {
    /// For connecting to an endpoint, TLS included, like "3s".
    pub(in crate::config) connect: Option<DurationText>,
    /// From the request's last byte to the head of the endpoint's answer, like "60s".
    pub(in crate::config) response_header: Option<DurationText>,
    /// How long after a backend's first refused connection requests wait for it to listen again, like "5s"; "0s": not at all.
    pub(in crate::config) restart_wait: Option<DurationText>,
    /// How long a body may stand still while the client or the endpoint is waited for, like "60s".
    pub(in crate::config) body_idle: Option<DurationText>,
    /// For a whole request, from its head to the end of its answer, like "10m".
    pub(in crate::config) request: Option<DurationText>,
}

/// When requests are sent again to another endpoint of their backend; or "off".
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(in crate::config) enum RetryFile {
    Word(String),
    Table(RetryTableFile),
}

/// When requests are sent again to another endpoint of their backend.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RetryTableFile {
    /// Endpoints of a backend that one request is sent to at most, the first included.
    #[schemars(range(min = 1, max = 10))]
    pub(in crate::config) attempts: u32,
    /// After which failures: "connect", "reset", "timeout" and statuses like "503".
    pub(in crate::config) on: Vec<String>,
    /// How long each attempt may wait for the head of an answer, like "2s"; as long as response_header when left out.
    pub(in crate::config) per_try: Option<DurationText>,
    /// Retries, rescues and hedges as a share of the service's requests, from 0 to 1.
    pub(in crate::config) budget: f64,
    /// Retries, rescues and hedges a second that are allowed however few requests there are.
    #[schemars(range(max = 1_000_000))]
    pub(in crate::config) floor: u32,
}

/// When stable answers in place of another backend; or "off".
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(in crate::config) enum RescueFile {
    Word(String),
    Table(RescueTableFile),
}

/// When stable answers in place of another backend.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RescueTableFile {
    /// After which failures: "connect", "reset", "timeout" and statuses like "503".
    pub(in crate::config) on: Vec<String>,
    /// true: requests with Idempotency-Key may be sent twice whatever their method; false unless said.
    pub(in crate::config) idempotency_key: bool,
}

impl Default for RetryTableFile {
    fn default() -> Self {
        let on = words(&["connect", "reset", "timeout", "502", "503", "504"]);
        Self { attempts: 3, on, per_try: None, budget: 0.2, floor: 10 }
    }
}

impl Default for RescueTableFile {
    fn default() -> Self {
        let on = words(&["connect", "reset", "timeout", "500", "502", "503", "504"]);
        Self { on, idempotency_key: false }
    }
}

impl Default for CompressionFile {
    fn default() -> Self {
        let algorithms = vec![AlgorithmFile::Zstd, AlgorithmFile::Br, AlgorithmFile::Gzip];
        Self { algorithms, min_bytes: SizeText("1KiB".to_owned()), types: None, at_once: 64 }
    }
}

impl Default for NetworkFile {
    fn default() -> Self {
        Self { ipv4: 32, ipv6: 64 }
    }
}

impl Default for ProbationFile {
    fn default() -> Self {
        Self { after: duration("10m"), percent: 1.0, pass: duration("10m") }
    }
}

fn clients_max() -> usize {
    100_000
}

fn slow_start() -> DurationText {
    duration("30s")
}

fn maintenance_status() -> u16 {
    503
}
