//! The shape of proxy.toml: its keys, and what an editor says about them. The first paragraph of each comment is also
//! the hint that goes with a missing or ill-shaped value, so it speaks to whoever writes the file.

#![allow(
    rustdoc::broken_intra_doc_links,
    rustdoc::bare_urls,
    clippy::doc_markdown,
    clippy::doc_link_with_quotes,
    reason = "the comments are hints, shown as plain text"
)]

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::table::Table;

/// The configuration of tidegate.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// Folder for what must survive a restart; one per running tidegate.
    #[serde(default = "state_dir")]
    pub(super) state_dir: String,
    /// Threads that carry traffic, from 1 to 1024; one per core when left out.
    #[schemars(range(min = 1, max = 1024))]
    pub(super) workers: Option<usize>,
    /// Addresses that clients connect to, at least one: a [[listeners]] table with address = "127.0.0.1:8080".
    #[schemars(length(min = 1))]
    pub(super) listeners: Vec<ListenerFile>,
    /// Whose X-Forwarded-For and other words about clients are believed: ["10.0.0.0/8", "192.0.2.7"]; nobody's when left out.
    #[serde(default)]
    pub(super) trusted_proxies: Vec<String>,
    /// What endpoints and clients are told about a request's way: [forwarding] with via = "tidegate" and others.
    #[serde(default)]
    pub(super) forwarding: ForwardingFile,
    /// The admin API: [admin] with address = "127.0.0.1:9900"; left out, there is none.
    pub(super) admin: Option<AdminFile>,
    /// Who outside is told of events: [[notify]] with name, kind and url, once for each.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub(super) notify: Vec<NotifyFile>,
    /// One JSON line per request: "off", "stdout" or the path of a file.
    #[serde(default = "access_log")]
    pub(super) access_log: String,
    /// What tidegate says about itself, on stderr: [log] with filter and format.
    #[serde(default)]
    pub(super) log: LogFile,
    /// How often host names of endpoints are looked up again, like "10s".
    #[serde(default = "resolve_interval")]
    pub(super) resolve_interval: DurationText,
    /// How much clients may take: [limits] with connections = 10000 and others.
    #[serde(default)]
    pub(super) limits: LimitsFile,
    /// How long clients and endpoints may take: [timeouts] with keep_alive = "5m" and others.
    #[serde(default)]
    pub(super) timeouts: TimeoutsFile,
    /// Deadlines of a graceful stop: [shutdown] with delay, requests and streams.
    #[serde(default)]
    pub(super) shutdown: ShutdownFile,
    /// Answers that tidegate makes itself: [errors] with html = "error.html" and others.
    #[serde(default)]
    pub(super) errors: ErrorsFile,
    /// The applications behind this proxy, at least one: [services.NAME] with its backends.
    pub(super) services: Table<ServiceFile>,
}

/// A number and its unit: "250ms", "30s", "5m", "1h30m", "7d".
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub(super) struct DurationText(pub(super) String);

/// A number of bytes and its unit: "512B", "64KiB", "10MiB".
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub(super) struct SizeText(pub(super) String);

/// An address that clients connect to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListenerFile {
    /// IP address and port, like "0.0.0.0:80" or "[::]:443".
    pub(super) address: String,
    /// Certificates, chosen by the name the client asks for; the first answers when none fits. Left out: no TLS.
    #[schemars(length(min = 1))]
    pub(super) tls: Option<Vec<PairFile>>,
    /// Client connections open at once on this listener; left out, only [limits] counts.
    #[schemars(range(min = 1))]
    pub(super) connections: Option<u64>,
    /// Networks of proxies that begin each connection with a PROXY header, like ["10.0.0.0/8"]; nobody else is let in.
    #[schemars(length(min = 1))]
    pub(super) proxy_protocol: Option<Vec<String>>,
    /// Clients' certificates: { ca = "ca.pem" }; needs tls.
    pub(super) client_auth: Option<ClientAuthFile>,
}

/// Which certificates clients have to show.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ClientAuthFile {
    /// PEM file of the authorities that clients' certificates come from.
    pub(super) ca: String,
    /// "required", or "optional" for clients that may do without.
    #[serde(default)]
    pub(super) mode: ClientAuthModeFile,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(super) enum ClientAuthModeFile {
    #[default]
    Required,
    Optional,
}

/// A certificate and its private key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PairFile {
    /// PEM file with the certificate, followed by its intermediates.
    pub(super) cert: String,
    /// PEM file with the certificate's private key.
    pub(super) key: String,
}

/// What endpoints and clients are told about a request's way.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ForwardingFile {
    /// The words that trusted_proxies are believed in: "x-forwarded", "forwarded" (RFC 7239) or "both".
    pub(super) believe: BelieveFile,
    /// Client-Cert and its like, sent by trusted_proxies: "drop", or "trust" where those make or clean them.
    pub(super) client_cert: ClientCertFile,
    /// Our name in the Via header of requests and responses, or "off" for none.
    pub(super) via: String,
    /// true: requests have the Forwarded header (RFC 7239), too.
    pub(super) forwarded: bool,
    /// true: endpoints' responses have the x-request-id that the request had; our own errors always have it.
    pub(super) return_request_id: bool,
    /// Start a trace for requests that come without one, and have this share of them recorded, from 0 to 1.
    pub(super) trace_sample: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub(super) enum BelieveFile {
    XForwarded,
    Forwarded,
    Both,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(super) enum ClientCertFile {
    Drop,
    Trust,
}

/// The admin API.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AdminFile {
    /// IP address and port, like "127.0.0.1:9900".
    pub(super) address: String,
    /// Asked of every caller as "Authorization: Bearer TOKEN"; needed when the address is not loopback.
    pub(super) token: Option<String>,
}

/// What tidegate says about itself.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LogFile {
    /// Least level that is shown, for all or by module: "info", "debug", "tidegate=debug,warn".
    pub(super) filter: String,
    /// "text" for people or "json" for machines.
    pub(super) format: LogFormatFile,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(super) enum LogFormatFile {
    Text,
    Json,
}

/// How much clients may take.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LimitsFile {
    /// Client connections open at once, on all listeners; left out, what the limit of open files allows.
    #[schemars(range(min = 1))]
    pub(super) connections: Option<u64>,
    /// Client connections open at once from one IPv4 address or one IPv6 /64; left out, any number.
    #[schemars(range(min = 1))]
    pub(super) connections_per_client: Option<u32>,
    /// Requests on one client connection before it is closed.
    #[schemars(range(min = 1))]
    pub(super) requests_per_connection: u64,
    /// The largest head of a request, like "32KiB".
    pub(super) header_bytes: SizeText,
    /// Header fields of one request.
    #[schemars(range(min = 1, max = 10000))]
    pub(super) headers: usize,
    /// Requests at once on one HTTP/2 connection of a client.
    #[schemars(range(min = 1, max = 10000))]
    pub(super) streams: u32,
    /// Body bytes that a client may send ahead in one HTTP/2 request, like "64KiB".
    pub(super) stream_window: SizeText,
    /// Body bytes that a client may send ahead on one HTTP/2 connection, like "1MiB".
    pub(super) connection_window: SizeText,
    /// The longest path with its query, like "8KiB".
    pub(super) uri_bytes: SizeText,
    /// What a client must send of a body in timeouts.body_idle while it is waited for, like "1KiB"; "1B": anything.
    pub(super) body_pace: SizeText,
    /// Memory of the whole process, like "2GiB"; 80 % of what the machine or the cgroup has when left out.
    pub(super) memory: Option<SizeText>,
    /// Bodies of requests and answers that mirrors hold at a time, of all services together, like "64MiB".
    pub(super) mirror_memory: SizeText,
}

/// How long clients and endpoints may take.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TimeoutsFile {
    /// For a client's TLS handshake, like "10s".
    pub(super) tls_handshake: DurationText,
    /// From a request's first byte to the end of its head, like "10s".
    pub(super) header_read: DurationText,
    /// How long a client may keep an idle connection, like "5m".
    pub(super) keep_alive: DurationText,
    /// How long a WebSocket, another tunnel, an event stream or a gRPC call may be silent, like "1h".
    pub(super) tunnel_idle: DurationText,
    /// How long a body under way may stand still, whoever is to move it, like "60s"; services may say otherwise.
    pub(super) body_idle: DurationText,
    /// For a whole request, from its head to the end of its answer, like "10m"; no limit when left out; services may
    /// say otherwise.
    pub(super) request: Option<DurationText>,
    /// For connecting to an endpoint, TLS included, like "3s"; services may say otherwise.
    pub(super) connect: DurationText,
    /// From the request's last byte to the head of the endpoint's answer, like "60s"; services may say otherwise.
    pub(super) response_header: DurationText,
    /// How long after a backend's first refused connection requests wait for it to listen again, like "5s"; "0s": not
    /// at all; services may say otherwise.
    pub(super) restart_wait: DurationText,
}

/// Deadlines of a graceful stop.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ShutdownFile {
    /// How long /readyz says no before new connections are refused, like "5s".
    pub(super) delay: DurationText,
    /// For requests under way, like "30s".
    pub(super) requests: DurationText,
    /// For WebSockets, server-sent events and gRPC streams, like "5m".
    pub(super) streams: DurationText,
}

/// One application and its deployments.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceFile {
    /// Which requests it takes; left out: all that no other service takes.
    #[schemars(length(min = 1))]
    pub(super) routes: Option<Vec<RouteFile>>,
    /// The backend that others are compared with; the one with the largest weight when left out.
    pub(super) stable: Option<String>,
    /// Keeps each client on one backend: { cookie = "NAME" }, { header = "NAME" } or { network = {} }.
    pub(super) sticky: Option<StickyFile>,
    /// Client networks that may use the service, like ["10.0.0.0/8", "2001:db8::/32"]; everybody when left out.
    #[schemars(length(min = 1))]
    pub(super) allow: Option<Vec<String>>,
    /// Client networks that may not use the service, like ["192.0.2.0/24"], even if allow names them.
    #[schemars(length(min = 1))]
    pub(super) deny: Option<Vec<String>>,
    /// "redirect": requests that come without TLS are sent to https.
    pub(super) https: Option<HttpsFile>,
    /// The port that https = "redirect" sends clients to, if not 443.
    #[schemars(range(min = 1, max = 65535))]
    pub(super) https_port: Option<u16>,
    /// Tells browsers to use https alone for this long, like "365d" or { max_age = "365d", include_subdomains = true }.
    pub(super) hsts: Option<HstsFile>,
    /// How many requests each client may make: [{ requests = 100, per = "1s" }]; every limit must be kept.
    #[serde(default)]
    pub(super) rate_limits: Vec<RateLimitFile>,
    /// Requests that go to one backend whatever the weights, tried in order.
    #[serde(default)]
    pub(super) rules: Vec<RuleFile>,
    /// How long this service's requests may take: { connect = "3s", response_header = "60s" } and others.
    pub(super) timeouts: Option<ServiceTimeoutsFile>,
    /// The largest body of a request, like "10MiB"; no limit when left out.
    pub(super) body_max: Option<SizeText>,
    /// When a request is sent again to another endpoint: { attempts = 3 } and others, or "off".
    pub(super) retry: Option<RetryFile>,
    /// When stable answers in place of another backend that failed: { idempotency_key = true } and others, or "off".
    pub(super) rescue: Option<RescueFile>,
    /// true: to do any of its requests twice is to do it once, whatever the method; gRPC needs it to be sent again.
    #[serde(default)]
    pub(super) idempotent: bool,
    /// How much of a request's body is kept for sending it again, like "64KiB"; "0B" for none.
    pub(super) replay_buffer: Option<SizeText>,
    /// true: the answer's tidegate-backend header says which backend it came from; false unless said.
    #[serde(default)]
    pub(super) backend_header: bool,
    /// What is changed in the headers of its requests: { set = { name = "value" }, add = { … }, remove = ["name"] }.
    pub(super) request_headers: Option<HeaderChangesFile>,
    /// What is changed in the headers of its endpoints' responses: { set = { name = "value" }, add = { … }, remove = ["name"] }.
    pub(super) response_headers: Option<HeaderChangesFile>,
    /// What this service's clients get from tidegate itself: { html = "error.html" }; the rest is as in [errors].
    pub(super) errors: Option<ErrorsFile>,
    /// Answers instead of the endpoints: [services.NAME.maintenance] with enabled = true.
    pub(super) maintenance: Option<MaintenanceFile>,
    /// Compresses answers for clients that take it: { algorithms = ["zstd", "br", "gzip"] } and others, or {}.
    pub(super) compression: Option<CompressionFile>,
    /// What happens to a backend that fails more often than stable: "drain" it, "observe" and tell, or "off"; "drain" when left out.
    pub(super) guard: Option<GuardFile>,
    /// Lets a backend that the guard has drained prove itself again: { after = "10m", percent = 1 }; left out: a person decides.
    pub(super) probation: Option<ProbationFile>,
    /// Takes out endpoints whose requests fail: { consecutive = 5, ratio = 0.5 } and others, or "off".
    #[serde(default)]
    pub(super) ejection: EjectionFile,
    /// How long an endpoint's share of requests grows after it has recovered, like "30s"; "0s": not at all.
    #[serde(default = "slow_start")]
    pub(super) slow_start: DurationText,
    /// Copies of its requests for a backend that answers nobody: { backend = "NAME" } and others, or a list of such tables.
    pub(super) mirror: Option<MirrorsFile>,
    /// How a new release is rolled out: [services.NAME.rollout] with strategy = "canary" and others.
    #[serde(default)]
    pub(super) rollout: RolloutFile,
    /// The deployments that share the service's requests, at least one: [services.NAME.backends.NAME].
    pub(super) backends: Table<BackendFile>,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(super) enum GuardFile {
    Drain,
    Observe,
    Off,
}

/// How a drained backend may prove itself again.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ProbationFile {
    /// How long it stays drained the first time, like "10m"; twice as long each time it fails again.
    pub(super) after: DurationText,
    /// Its share of the service's requests meanwhile, in percent, above 0 and at most 10.
    pub(super) percent: f64,
    /// How long it must do well to get its own weight back, like "10m".
    pub(super) pass: DurationText,
}

/// How a new release is rolled out.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RolloutFile {
    /// "canary": little by little; "blue-green": all at once, and back at once; "cohort": chosen clients first; "shadow": copies first; "canary" when left out.
    pub(super) strategy: Option<StrategyFile>,
    /// What happens one after the other: [{ weight = 1, advance_below = "5%" }, { weight = 100, watch = "10m" }]; the strategy's own when left out.
    #[schemars(length(min = 1, max = 32))]
    pub(super) steps: Option<Vec<StepFile>>,
    /// The new release may fail so many times as often as stable, at least 1, like 1.5.
    pub(super) margin: Option<f64>,
    /// Failures beyond stable's own rate that a rollout may cost in all; no limit when left out.
    #[schemars(range(min = 1, max = 1000000000))]
    pub(super) damage_budget: Option<u64>,
    /// A step that comes to nothing for so long, besides its own time, pauses, like "10m".
    pub(super) deadline: Option<DurationText>,
    /// How sure the proof of a step must be, like "95%".
    pub(super) confidence: Option<PercentText>,
    /// Clients that get the new release first: [{ headers = { x-beta = "yes" } }]; needs a step { cohort = true }.
    #[serde(default)]
    pub(super) cohort: Vec<CohortFile>,
    /// Requests that get the new release while a rollout is under way, whatever its step: [{ headers = { x-preview = "yes" } }].
    #[serde(default)]
    pub(super) preview: Vec<CohortFile>,
    /// Requests that the new release must answer before it gets any of the clients'.
    pub(super) smoke: Option<SmokeFile>,
    /// Who is asked whether a rollout may go on, by names of your choice.
    pub(super) webhooks: Table<WebhookFile>,
    /// Numbers of a Prometheus server that must stay within bounds, by names of your choice.
    pub(super) metrics: Table<MetricFile>,
    /// When nothing goes toward a new release: [{ weekdays = ["fri"], hours = "16:00-24:00", time_zone = "Europe/Berlin" }].
    pub(super) freeze: Vec<FreezeFile>,
}

/// Requests that each endpoint of the new release must answer as expected.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SmokeFile {
    /// [{ path = "/healthz", status = ["200"], json = { "$.ready" = true } }], asked one after the other.
    #[schemars(length(min = 1, max = 64))]
    pub(super) checks: Vec<SmokeCheckFile>,
    /// When they are asked: "before" the first step, before each further "step", before the "promotion" to 100 %.
    #[serde(default = "smoke_at")]
    #[schemars(length(min = 1))]
    pub(super) at: Vec<AskedAtFile>,
    /// For one request, like "5s".
    #[serde(default = "smoke_timeout")]
    pub(super) timeout: DurationText,
    /// Further tries of a request that failed.
    #[serde(default = "smoke_retries")]
    #[schemars(range(max = 10))]
    pub(super) retries: u32,
    /// What follows when one fails: "rollback" or "pause".
    #[serde(default = "rollback")]
    pub(super) on_failure: OnFailureFile,
}

/// One request, and what is expected of its answer.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SmokeCheckFile {
    /// Path and query, like "/healthz".
    pub(super) path: String,
    /// Its method; GET when left out.
    pub(super) method: Option<String>,
    /// The host asked for; the endpoint's own when left out.
    pub(super) host: Option<String>,
    /// Its headers: { x-probe = "tidegate" }.
    #[serde(default)]
    pub(super) headers: Table<String>,
    /// Good statuses: ["200", "300-399"]; ["200-299"] when left out.
    #[schemars(length(min = 1))]
    pub(super) status: Option<Vec<String>>,
    /// Headers that its answer must have: { content-type = "application/json" }.
    #[serde(default)]
    pub(super) answer_headers: Table<String>,
    /// Values that its JSON body must have, by places: { "$.status" = "ok", "$.items[*].stock" = 1 }.
    #[serde(default)]
    pub(super) json: Table<JsonValueFile>,
}

/// A text in quotes, a number, true or false.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(super) enum JsonValueFile {
    Text(String),
    Number(f64),
    Switch(bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(super) enum AskedAtFile {
    Before,
    Step,
    Promotion,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(super) enum PointFile {
    Before,
    Step,
    Promotion,
    After,
    Rollback,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(super) enum OnFailureFile {
    Pause,
    Rollback,
}

/// Somebody who is asked, by POST: 2xx is a yes, every other answer a no.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WebhookFile {
    /// Whom: "https://ci.example.com/hooks/shop".
    pub(super) url: String,
    /// When: "before" the first step, before each further "step", before the "promotion" to 100 %; and told "after" the end, or of a "rollback".
    #[schemars(length(min = 1))]
    pub(super) at: Vec<PointFile>,
    /// More headers: { authorization = "Bearer ${CI_TOKEN}" }.
    #[serde(default)]
    pub(super) headers: Table<String>,
    /// Signs each call: { env = "NAME" } or { file = "path" }; unsigned when left out.
    pub(super) secret: Option<SecretFile>,
    /// For https: { ca = "ca.pem" }, and a certificate to show.
    pub(super) tls: Option<BackendTlsFile>,
    /// For one call, like "10s".
    #[serde(default = "webhook_timeout")]
    pub(super) timeout: DurationText,
    /// Further tries where there is no answer, a 429 or a 5xx.
    #[serde(default = "webhook_retries")]
    #[schemars(range(max = 10))]
    pub(super) retries: u32,
    /// What follows a no: "pause" or "rollback".
    #[serde(default = "pause")]
    pub(super) on_failure: OnFailureFile,
}

/// A number that is watched while a rollout is under way.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MetricFile {
    /// The Prometheus server: "http://prometheus:9090".
    pub(super) url: String,
    /// PromQL for one number; {service}, {backend}, {stable} and {revision} are filled in.
    pub(super) query: String,
    /// It must be at least this; there is min, max or both.
    pub(super) min: Option<f64>,
    /// It must be at most this.
    pub(super) max: Option<f64>,
    /// How often it is asked for, like "10s"; the first time so long after a step has begun.
    #[serde(default = "metric_interval")]
    pub(super) interval: DurationText,
    /// How often in a row it must be out of bounds to count.
    #[serde(default = "metric_failures")]
    #[schemars(range(min = 1, max = 1000))]
    pub(super) failures: u32,
    /// More headers: { authorization = "Bearer ${PROMETHEUS_TOKEN}" }.
    #[serde(default)]
    pub(super) headers: Table<String>,
    /// For https: { ca = "ca.pem" }, and a certificate to show.
    pub(super) tls: Option<BackendTlsFile>,
    /// For one query, like "5s".
    #[serde(default = "metric_timeout")]
    pub(super) timeout: DurationText,
    /// What follows when it is out of bounds: "rollback" or "pause".
    #[serde(default = "rollback")]
    pub(super) on_failure: OnFailureFile,
}

/// A time in which nothing goes toward a new release: all of it must hold.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FreezeFile {
    /// Days of the week: ["fri", "sat", "sun"]; every day when left out.
    #[schemars(length(min = 1))]
    pub(super) weekdays: Option<Vec<WeekdayFile>>,
    /// First and last day: ["2026-12-20", "2027-01-02"]; all year when left out.
    #[schemars(length(min = 1, max = 2))]
    pub(super) dates: Option<Vec<String>>,
    /// From when to when: "16:00-24:00"; the whole day when left out.
    pub(super) hours: Option<String>,
    /// Whose calendar and clock: "Europe/Berlin"; UTC when left out.
    pub(super) time_zone: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(super) enum WeekdayFile {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// A part of a whole: "5%", "0.5%".
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub(super) struct PercentText(pub(super) String);

#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub(super) enum StrategyFile {
    Canary,
    BlueGreen,
    Cohort,
    Shadow,
}

/// One step: a weight, an approval, a cohort or copies.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct StepFile {
    /// The new release's share of the requests, in percent, above 0 and up to 100; the last step has 100.
    pub(super) weight: Option<f64>,
    /// The step is over once less than this fails, beyond doubt, like "0.5%".
    pub(super) advance_below: Option<PercentText>,
    /// The step is over after so long without harm, like "1m".
    pub(super) hold: Option<DurationText>,
    /// The share that stays on the old side meanwhile to be compared with, like "2%"; with weight = 100.
    pub(super) holdback: Option<PercentText>,
    /// How long the new release is watched before the old side is given up, like "10m"; with weight = 100.
    pub(super) watch: Option<DurationText>,
    /// Who has to approve, in any words: "release managers".
    #[schemars(length(min = 1, max = 256))]
    pub(super) approve: Option<String>,
    /// true: the clients that cohort names, and nobody else.
    pub(super) cohort: Option<bool>,
    /// Copies of this share of the requests, in percent, above 0 and up to 100: the step is over once they are known to be answered as stable answers.
    pub(super) mirror: Option<f64>,
    /// How long it may take until that is known, like "2m"; with mirror.
    #[serde(rename = "for")]
    pub(super) time: Option<DurationText>,
}

/// Clients that get a new release first: every condition given must hold, and there is at least one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CohortFile {
    /// Headers by name: an exact value, { present = true } or { regex = "…" }.
    #[serde(default)]
    pub(super) headers: Table<ValueFile>,
    /// Query parameters by name: an exact value, { present = true } or { regex = "…" }.
    #[serde(default)]
    pub(super) query: Table<ValueFile>,
    /// Cookies by name: an exact value, { present = true } or { regex = "…" }.
    #[serde(default)]
    pub(super) cookies: Table<ValueFile>,
    /// Client addresses: ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"].
    #[schemars(length(min = 1))]
    pub(super) networks: Option<Vec<String>>,
}

/// Answers that tidegate makes itself. Files may contain {status}, {title} and {request_id}.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ErrorsFile {
    /// File for clients that want HTML; a plain page is built in.
    pub(super) html: Option<String>,
    /// File for clients that want JSON; RFC 9457's form is built in.
    pub(super) json: Option<String>,
    /// true: the answer's tidegate-error header says the reason; false unless said.
    pub(super) header: Option<bool>,
}

/// Answers instead of a service's endpoints. Files may contain {status}, {title} and {request_id}.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MaintenanceFile {
    /// true: nobody but `allow` gets through; false: everybody.
    pub(super) enabled: bool,
    /// Status of the answer, from 400 to 599.
    #[serde(default = "maintenance_status")]
    #[schemars(range(min = 400, max = 599))]
    pub(super) status: u16,
    /// When to come back, like "5m": the answer's Retry-After; left out: there is none.
    pub(super) retry_after: Option<DurationText>,
    /// File for clients that want HTML; left out: as in errors.
    pub(super) html: Option<String>,
    /// File for clients that want JSON; left out: as in errors.
    pub(super) json: Option<String>,
    /// Client addresses that get through: ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"].
    #[serde(default)]
    pub(super) allow: Vec<String>,
}

/// Compresses answers for clients that take it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CompressionFile {
    /// In order of preference, where the client has none: ["zstd", "br", "gzip"].
    #[schemars(length(min = 1))]
    pub(super) algorithms: Vec<AlgorithmFile>,
    /// Answers that are known to be shorter than this are left alone, like "1KiB".
    pub(super) min_bytes: SizeText,
    /// Content types: "text/html", all of a kind "text/*", or a suffix "+json"; a common list when left out.
    #[schemars(length(min = 1))]
    pub(super) types: Option<Vec<String>>,
    /// Answers under compression at once, for each worker; more are sent as they are.
    #[schemars(range(min = 1, max = 65536))]
    pub(super) at_once: u32,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(super) enum AlgorithmFile {
    Zstd,
    Br,
    Gzip,
}

/// Which requests a service takes: every condition given must hold.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteFile {
    /// "shop.example.com", "*.example.com", or "*" for any host (as when left out).
    pub(super) host: Option<String>,
    /// The path and everything below it: "/api" takes /api and /api/x, not /apix; "/" when left out.
    pub(super) path: Option<String>,
    /// This path alone.
    pub(super) path_exact: Option<String>,
    /// A regular expression for the whole path.
    pub(super) path_regex: Option<String>,
    /// Like ["GET", "HEAD"]; every method when left out.
    pub(super) methods: Option<Vec<String>>,
    /// Headers by name: an exact value, { present = true } or { regex = "…" }.
    #[serde(default)]
    pub(super) headers: Table<ValueFile>,
    /// Query parameters by name: an exact value, { present = true } or { regex = "…" }.
    #[serde(default)]
    pub(super) query: Table<ValueFile>,
    /// Cookies by name: an exact value, { present = true } or { regex = "…" }.
    #[serde(default)]
    pub(super) cookies: Table<ValueFile>,
    /// true: the guard compares the backends on this route by itself, too, so that its failures aren't lost among the rest.
    #[serde(default)]
    pub(super) judged: bool,
}

/// An exact value in quotes, { present = true } or { regex = "…" }.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(super) enum ValueFile {
    Exact(String),
    Pattern(PatternFile),
}

/// One of { present = true } and { regex = "…" }.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PatternFile {
    /// true: it must be there, whatever its value.
    pub(super) present: Option<bool>,
    /// A regular expression that matches anywhere in the value.
    pub(super) regex: Option<String>,
}

/// By what clients are recognised: exactly one of cookie, header and network.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StickyFile {
    /// Name of a cookie that tidegate sets.
    pub(super) cookie: Option<String>,
    /// How long the cookie lives, like "30d", which it is when left out.
    pub(super) max_age: Option<DurationText>,
    /// Name of a header that tells clients apart.
    pub(super) header: Option<String>,
    /// Leading bits of the client's address that tell clients apart: { ipv4 = 32, ipv6 = 64 }.
    pub(super) network: Option<NetworkFile>,
}

/// How many leading bits of a client's address count.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct NetworkFile {
    /// Bits of IPv4 addresses, from 1 to 32.
    #[schemars(range(min = 1, max = 32))]
    pub(super) ipv4: u8,
    /// Bits of IPv6 addresses, from 1 to 128.
    #[schemars(range(min = 1, max = 128))]
    pub(super) ipv6: u8,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(super) enum HttpsFile {
    Redirect,
}

/// How long browsers use https alone, like "365d", or a table that says more.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(super) enum HstsFile {
    Age(String),
    Full(HstsTableFile),
}

/// What browsers are told about https.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HstsTableFile {
    /// How long browsers use https alone, like "365d"; "0s" makes them forget it.
    pub(super) max_age: DurationText,
    /// true: for all names below this one, too.
    #[serde(default)]
    pub(super) include_subdomains: bool,
    /// true: browsers may ship it; needs include_subdomains and "365d".
    #[serde(default)]
    pub(super) preload: bool,
}

/// How many requests each client may make.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RateLimitFile {
    /// How many requests, in the long run, in each span of per.
    #[schemars(range(min = 1, max = 4294967295u32))]
    pub(super) requests: u32,
    /// The span, like "1s" or "1m".
    pub(super) per: DurationText,
    /// How many may come at once after a pause; as many as requests when left out.
    #[schemars(range(min = 1, max = 4294967295u32))]
    pub(super) burst: Option<u32>,
    /// What a client is: { header = "NAME" }, { cookie = "NAME" } or { network = {} }; its address when left out.
    pub(super) by: Option<RateLimitByFile>,
    /// How many clients are kept apart at a time, at up to 40 bytes each; those beyond share one allowance.
    #[serde(default = "clients_max")]
    #[schemars(range(min = 1, max = 10000000))]
    pub(super) clients_max: usize,
}

/// What tells clients apart: exactly one of cookie, header and network.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RateLimitByFile {
    /// Name of a cookie that the application sets.
    pub(super) cookie: Option<String>,
    /// Name of a header that tells clients apart.
    pub(super) header: Option<String>,
    /// Leading bits of the client's address that tell clients apart: { ipv4 = 32, ipv6 = 64 }.
    pub(super) network: Option<NetworkFile>,
}

/// Requests that go to one backend: every condition given must hold, and there is at least one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleFile {
    /// The backend that these requests go to.
    pub(super) backend: String,
    /// Headers by name: an exact value, { present = true } or { regex = "…" }.
    #[serde(default)]
    pub(super) headers: Table<ValueFile>,
    /// Query parameters by name: an exact value, { present = true } or { regex = "…" }.
    #[serde(default)]
    pub(super) query: Table<ValueFile>,
    /// Cookies by name: an exact value, { present = true } or { regex = "…" }.
    #[serde(default)]
    pub(super) cookies: Table<ValueFile>,
    /// Client addresses: ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"].
    #[schemars(length(min = 1))]
    pub(super) networks: Option<Vec<String>>,
}

/// Changes to headers, made in the order remove, set, add.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderChangesFile {
    /// Values by name, in place of those that were there: { name = "value" }.
    #[serde(default)]
    pub(super) set: Table<String>,
    /// Values by name, besides those that were there: { name = "value" }.
    #[serde(default)]
    pub(super) add: Table<String>,
    /// Names of headers that go: ["name"].
    #[serde(default)]
    pub(super) remove: Vec<String>,
}

/// How long one service's requests may take; what is left out is taken from [timeouts].
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceTimeoutsFile {
    /// For connecting to an endpoint, TLS included, like "3s".
    pub(super) connect: Option<DurationText>,
    /// From the request's last byte to the head of the endpoint's answer, like "60s".
    pub(super) response_header: Option<DurationText>,
    /// How long after a backend's first refused connection requests wait for it to listen again, like "5s"; "0s": not at all.
    pub(super) restart_wait: Option<DurationText>,
    /// How long a body may stand still while the client or the endpoint is waited for, like "60s".
    pub(super) body_idle: Option<DurationText>,
    /// For a whole request, from its head to the end of its answer, like "10m".
    pub(super) request: Option<DurationText>,
}

/// When requests are sent again to another endpoint of their backend; or "off".
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(super) enum RetryFile {
    Word(String),
    Table(RetryTableFile),
}

/// When requests are sent again to another endpoint of their backend.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RetryTableFile {
    /// Endpoints of a backend that one request is sent to at most, the first included.
    #[schemars(range(min = 1, max = 10))]
    pub(super) attempts: u32,
    /// After which failures: "connect", "reset", "timeout" and statuses like "503".
    pub(super) on: Vec<String>,
    /// How long each attempt may wait for the head of an answer, like "2s"; as long as response_header when left out.
    pub(super) per_try: Option<DurationText>,
    /// Retries, rescues and hedges as a share of the service's requests, from 0 to 1.
    pub(super) budget: f64,
    /// Retries, rescues and hedges a second that are allowed however few requests there are.
    #[schemars(range(max = 1_000_000))]
    pub(super) floor: u32,
}

/// When stable answers in place of another backend; or "off".
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(super) enum RescueFile {
    Word(String),
    Table(RescueTableFile),
}

/// When stable answers in place of another backend.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RescueTableFile {
    /// After which failures: "connect", "reset", "timeout" and statuses like "503".
    pub(super) on: Vec<String>,
    /// true: requests with Idempotency-Key may be sent twice whatever their method; false unless said.
    pub(super) idempotency_key: bool,
}

/// One deployment of a service.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BackendFile {
    /// Share of the service's requests, relative to the other backends' weights; fractions and 0 are fine.
    pub(super) weight: f64,
    /// What runs there: an image digest, a git sha, any text that never changes its meaning; left out: the endpoints stand for it.
    #[schemars(length(min = 1, max = 256))]
    pub(super) revision: Option<String>,
    /// Where it listens: ["http://127.0.0.1:9001"] or ["https://app.internal"].
    #[schemars(length(min = 1))]
    pub(super) endpoints: Vec<String>,
    /// What its endpoints speak: "h1" (HTTP/1.1) or "h2" (HTTP/2, which gRPC needs).
    #[serde(default)]
    pub(super) protocol: ProtocolFile,
    /// Begin each connection with a PROXY header of this version, "v1" or "v2"; needs protocol = "h1".
    pub(super) proxy_protocol: Option<ProxyVersionFile>,
    /// How https endpoints are verified: { ca = "ca.pem" }; left out: by the system's authorities.
    pub(super) tls: Option<BackendTlsFile>,
    /// Idle connections to each endpoint: { idle_max = 1024, idle_timeout = "4s" }.
    #[serde(default)]
    pub(super) pool: PoolFile,
    /// Asks each endpoint again and again whether it is well: { path = "/healthz" } and others; not at all when left out.
    pub(super) health: Option<HealthFile>,
    /// Requests at once, and who waits: { requests = 100, queue = 100 } and others; any number when left out.
    pub(super) limits: Option<BackendLimitsFile>,
}

/// A table that says which requests are copied, and where to, or a list of such tables.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(super) enum MirrorsFile {
    One(Box<MirrorFile>),
    Several(Vec<MirrorFile>),
}

/// Which requests are copied, and where to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MirrorFile {
    /// The backend of this service that gets the copies; its weight may be 0.
    pub(super) backend: String,
    /// How many of the requests are copied, in percent, from 0 to 100; fractions are fine.
    #[serde(default = "mirror_percent")]
    pub(super) percent: f64,
    /// What is drawn: each "request", or each "client" with all of its requests.
    #[serde(default)]
    pub(super) by: MirrorByFile,
    /// Methods of requests that are copied, like ["GET", "HEAD"], which they are when left out.
    pub(super) methods: Option<Vec<String>>,
    /// Copies only what one of these routes would take: [{ path = "/api" }]; everything when left out.
    #[schemars(length(min = 1))]
    pub(super) routes: Option<Vec<RouteFile>>,
    /// Copies only requests for which all of it holds: { headers = { x-tenant = "acme" } }; everything when left out.
    #[serde(rename = "match")]
    pub(super) conditions: Option<MirrorMatchFile>,
    /// For a copy, from the request's last byte to the end of the answer, like "5s".
    #[serde(default = "mirror_timeout")]
    pub(super) timeout: DurationText,
    /// Copies under way at a time, of all workers together; those beyond are dropped.
    #[serde(default = "mirror_requests")]
    #[schemars(range(min = 1, max = 1000000))]
    pub(super) max_requests: u32,
    /// Copies that wait for others to end; 0: those beyond max_requests are dropped at once.
    #[serde(default)]
    #[schemars(range(max = 1000000))]
    pub(super) queue: u32,
    /// How much of a request's body is held for a copy, like "64KiB".
    #[serde(default = "mirror_body_max")]
    pub(super) body_max: SizeText,
    /// Requests with a larger body: "skip" them, or "stream" theirs to the backend as it comes, as long as that keeps up.
    #[serde(default)]
    pub(super) large_body: LargeBodyFile,
    /// How much of an answer is read, like "1MiB"; the connection of a larger one is closed.
    #[serde(default = "mirror_answer_max")]
    pub(super) answer_max: SizeText,
    /// Added to the host that copies ask for, before its port, like "-shadow".
    pub(super) host_suffix: Option<String>,
    /// What copies lack: { headers = ["authorization"], cookies = ["session"] }.
    #[serde(default)]
    pub(super) redact: RedactFile,
    /// Compares the answers with the clients' own: true, or { body_max = "256KiB" } and others; not when left out.
    pub(super) compare: Option<CompareFile>,
}

impl MirrorFile {
    /// Everything, compared with the help of a second copy: without one, what is no difference would have to be said.
    pub(super) fn compared(backend: String) -> Self {
        Self {
            backend,
            percent: mirror_percent(),
            by: MirrorByFile::Request,
            methods: None,
            routes: None,
            conditions: None,
            timeout: mirror_timeout(),
            max_requests: mirror_requests(),
            queue: 0,
            body_max: mirror_body_max(),
            large_body: LargeBodyFile::Skip,
            answer_max: mirror_answer_max(),
            host_suffix: None,
            redact: RedactFile::default(),
            compare: Some(CompareFile::Table(CompareTableFile { noise: true, ..CompareTableFile::default() })),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(super) enum MirrorByFile {
    #[default]
    Request,
    Client,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(super) enum LargeBodyFile {
    #[default]
    Skip,
    Stream,
}

/// Requests that are copied: every condition given must hold.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MirrorMatchFile {
    /// Headers by name: an exact value, { present = true } or { regex = "…" }.
    #[serde(default)]
    pub(super) headers: Table<ValueFile>,
    /// Query parameters by name: an exact value, { present = true } or { regex = "…" }.
    #[serde(default)]
    pub(super) query: Table<ValueFile>,
    /// Cookies by name: an exact value, { present = true } or { regex = "…" }.
    #[serde(default)]
    pub(super) cookies: Table<ValueFile>,
    /// Client addresses: ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"].
    #[schemars(length(min = 1))]
    pub(super) networks: Option<Vec<String>>,
}

/// What is taken out of copies.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RedactFile {
    /// Names of headers, like ["authorization"].
    pub(super) headers: Vec<String>,
    /// Names of cookies, like ["session"].
    pub(super) cookies: Vec<String>,
}

/// true, or a table that says what of the answers is compared.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(super) enum CompareFile {
    Switch(bool),
    Table(CompareTableFile),
}

/// What of the answers is compared, and how.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CompareTableFile {
    /// Headers that must be the same, like ["content-type", "location"].
    pub(super) headers: Vec<String>,
    /// How much of a body is compared, like "256KiB".
    pub(super) body_max: SizeText,
    /// true: a second copy goes to the backend that answers the client, to find out what differs by itself.
    pub(super) noise: bool,
    /// Places in JSON bodies that may differ, with all below them, like ["$.timestamp", "$.items[*].id"].
    pub(super) ignore: Vec<String>,
    /// More names of fields, headers and parameters whose values are never kept in examples, like ["tax_id"].
    pub(super) redact: Vec<String>,
    /// Requests that are kept as examples, each of another difference.
    #[schemars(range(max = 100))]
    pub(super) examples: u32,
    /// Part of the answers that may really differ of a shadow that is the same, like 0.01.
    pub(super) tolerated: f64,
    /// How often, at most, a verdict is wrong, either way, like 0.001.
    pub(super) alpha: f64,
}

/// "off", or a table that says when and for how long.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(super) enum EjectionFile {
    Off(String),
    On(EjectionTableFile),
}

/// When an endpoint's failures take it out, and for how long.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct EjectionTableFile {
    /// Failures in a row.
    #[schemars(range(min = 1, max = 1000000))]
    pub(super) consecutive: u32,
    /// Failed part of what ended in the last window, above 0 and up to 1.
    pub(super) ratio: f64,
    /// What ratio is taken of, like "10s".
    pub(super) window: DurationText,
    /// With fewer requests than this in a window, ratio says nothing.
    #[schemars(range(min = 1, max = 1000000000))]
    pub(super) min_requests: u64,
    /// How long the first time, like "10s"; it grows with each time in a row.
    pub(super) time: DurationText,
    /// How long at most, like "5m".
    pub(super) max: DurationText,
}

/// How each endpoint is asked whether it is well.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct HealthFile {
    /// What is asked: "http", "grpc" (the service grpc.health.v1.Health) or "tcp" (can it be connected to?).
    pub(super) kind: HealthKindFile,
    /// http: the path, with its query if it has one, like "/healthz".
    pub(super) path: Option<String>,
    /// http: the method; "GET" when left out.
    pub(super) method: Option<String>,
    /// http and grpc: the host that is asked for; the endpoint's own when left out.
    pub(super) host: Option<String>,
    /// http: more headers, { name = "value" }.
    pub(super) headers: Table<String>,
    /// http: good statuses, single ones and ranges: ["200-299", "304"]; 200 to 299 when left out.
    #[schemars(length(min = 1))]
    pub(super) status: Option<Vec<String>>,
    /// http: a regular expression that matches somewhere in the first 64 KiB of the answer's body.
    pub(super) body: Option<String>,
    /// grpc: the service that is asked about; the whole server when left out.
    pub(super) service: Option<String>,
    /// From one check to the next, like "5s"; shorter while the outcome changes.
    pub(super) interval: DurationText,
    /// For one check, from the connect to the end of the answer, like "2s".
    pub(super) timeout: DurationText,
    /// Good checks in a row after which an endpoint gets requests again.
    #[schemars(range(min = 1, max = 1000))]
    pub(super) rise: u32,
    /// Failed checks in a row after which an endpoint gets none.
    #[schemars(range(min = 1, max = 1000))]
    pub(super) fall: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(super) enum HealthKindFile {
    Http,
    Grpc,
    Tcp,
}

/// Requests at once, of all workers together, and how those beyond wait.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BackendLimitsFile {
    /// Requests at once on all endpoints together; any number when left out.
    #[schemars(range(min = 1, max = 1000000))]
    pub(super) requests: Option<u32>,
    /// Requests at once on each endpoint; any number when left out.
    #[schemars(range(min = 1, max = 1000000))]
    pub(super) requests_per_endpoint: Option<u32>,
    /// Requests that wait for their turn; those beyond get 503 at once, as all do with 0.
    #[serde(default = "queue")]
    #[schemars(range(max = 1000000))]
    pub(super) queue: u32,
    /// How long a request waits for its turn before it gets 503, like "1s".
    #[serde(default = "queue_timeout")]
    pub(super) queue_timeout: DurationText,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(super) enum ProtocolFile {
    #[default]
    H1,
    H2,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(super) enum ProxyVersionFile {
    V1,
    V2,
}

/// How https endpoints are verified.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BackendTlsFile {
    /// PEM file of the authorities to trust instead of the system's.
    pub(super) ca: Option<String>,
    /// PEM file with a client certificate to show; needs key.
    pub(super) cert: Option<String>,
    /// PEM file with the client certificate's private key; needs cert.
    pub(super) key: Option<String>,
    /// Name that the endpoints' certificates must carry, instead of the endpoint's own host.
    pub(super) server_name: Option<String>,
}

/// Somebody outside who is told of events: a webhook, a chat, a dashboard or a pipeline.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NotifyFile {
    /// Names it in metrics and in the history, like "release-chat".
    pub(super) name: String,
    /// What it understands: "webhook" (our events as JSON), "slack" and its like, "grafana" (annotations) or "cdevents".
    pub(super) kind: NotifyKindFile,
    /// Where each event is sent by POST.
    pub(super) url: String,
    /// Only events of these services; of all, and of the process, when left out.
    #[schemars(length(min = 1))]
    pub(super) services: Option<Vec<String>>,
    /// Only these kinds of events, like ["rollout_*", "drained"]; left out: all, or for people what they may act on.
    #[schemars(length(min = 1))]
    pub(super) events: Option<Vec<String>>,
    /// slack and grafana: what is said, with {service}, {kind}, {by}, {at}, {text} or what the event has in it.
    pub(super) text: Option<String>,
    /// More headers, { name = "value" }, like a token.
    #[serde(default)]
    pub(super) headers: Table<String>,
    /// Signs each message: { env = "NAME" } or { file = "path" }.
    pub(super) secret: Option<SecretFile>,
    /// How an https URL is verified: { ca = "ca.pem" } and others.
    pub(super) tls: Option<BackendTlsFile>,
    /// For one attempt, like "10s".
    #[serde(default = "notify_timeout")]
    pub(super) timeout: DurationText,
    /// For how long one event is tried before it is skipped, like "1h".
    #[serde(default = "notify_retry")]
    pub(super) retry: DurationText,
    /// Events that may wait; the oldest are skipped.
    #[serde(default = "notify_backlog")]
    #[schemars(range(min = 1, max = 10000))]
    pub(super) backlog: u32,
    /// cdevents: where services run; "production" when left out.
    pub(super) environment: Option<String>,
    /// cdevents: who says so, a URI reference; "/tidegate" when left out.
    pub(super) source: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(super) enum NotifyKindFile {
    Webhook,
    Slack,
    Grafana,
    Cdevents,
}

fn notify_timeout() -> DurationText {
    DurationText("10s".to_owned())
}

fn notify_retry() -> DurationText {
    DurationText("1h".to_owned())
}

fn notify_backlog() -> u32 {
    1_000
}

/// Text that is known to few: from the environment, or from a file of its own.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SecretFile {
    /// The environment variable that holds it.
    pub(super) env: Option<String>,
    /// The file that holds it, and nothing else.
    pub(super) file: Option<String>,
}

/// Idle connections that each worker keeps to each endpoint.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PoolFile {
    /// The most that are kept; 0 for none.
    #[schemars(range(max = 65536))]
    pub(super) idle_max: usize,
    /// How long one is kept, like "4s"; below the endpoint's own keep-alive time.
    pub(super) idle_timeout: DurationText,
}

fn state_dir() -> String {
    "state".to_owned()
}

fn access_log() -> String {
    "off".to_owned()
}

fn duration(text: &str) -> DurationText {
    DurationText(text.to_owned())
}

fn clients_max() -> usize {
    100_000
}

fn size(text: &str) -> SizeText {
    SizeText(text.to_owned())
}

fn resolve_interval() -> DurationText {
    duration("10s")
}

fn slow_start() -> DurationText {
    duration("30s")
}

fn queue() -> u32 {
    100
}

fn queue_timeout() -> DurationText {
    duration("1s")
}

fn smoke_at() -> Vec<AskedAtFile> {
    vec![AskedAtFile::Before]
}

fn smoke_timeout() -> DurationText {
    duration("5s")
}

fn smoke_retries() -> u32 {
    2
}

fn webhook_timeout() -> DurationText {
    duration("10s")
}

fn webhook_retries() -> u32 {
    3
}

fn metric_interval() -> DurationText {
    duration("10s")
}

fn metric_failures() -> u32 {
    1
}

fn metric_timeout() -> DurationText {
    duration("5s")
}

fn pause() -> OnFailureFile {
    OnFailureFile::Pause
}

fn rollback() -> OnFailureFile {
    OnFailureFile::Rollback
}

fn mirror_percent() -> f64 {
    100.0
}

fn mirror_timeout() -> DurationText {
    duration("5s")
}

fn mirror_requests() -> u32 {
    100
}

fn mirror_body_max() -> SizeText {
    size("64KiB")
}

fn mirror_answer_max() -> SizeText {
    size("1MiB")
}

fn maintenance_status() -> u16 {
    503
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
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

impl Default for CompareTableFile {
    fn default() -> Self {
        Self {
            headers: words(&["content-type", "location"]),
            body_max: size("256KiB"),
            noise: false,
            ignore: Vec::new(),
            redact: Vec::new(),
            examples: 5,
            tolerated: 0.01,
            alpha: 0.001,
        }
    }
}

impl Default for CompressionFile {
    fn default() -> Self {
        let algorithms = vec![AlgorithmFile::Zstd, AlgorithmFile::Br, AlgorithmFile::Gzip];
        Self { algorithms, min_bytes: SizeText("1KiB".to_owned()), types: None, at_once: 64 }
    }
}

impl Default for LogFile {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormatFile::Text }
    }
}

impl Default for LimitsFile {
    fn default() -> Self {
        Self {
            connections: None,
            connections_per_client: None,
            requests_per_connection: 10_000,
            header_bytes: size("32KiB"),
            headers: 100,
            streams: 100,
            stream_window: size("64KiB"),
            connection_window: size("1MiB"),
            uri_bytes: size("8KiB"),
            body_pace: size("1KiB"),
            memory: None,
            mirror_memory: size("64MiB"),
        }
    }
}

impl Default for TimeoutsFile {
    fn default() -> Self {
        Self {
            tls_handshake: duration("10s"),
            header_read: duration("10s"),
            keep_alive: duration("5m"),
            tunnel_idle: duration("1h"),
            body_idle: duration("60s"),
            request: None,
            connect: duration("3s"),
            response_header: duration("60s"),
            restart_wait: duration("5s"),
        }
    }
}

impl Default for ForwardingFile {
    fn default() -> Self {
        Self {
            believe: BelieveFile::XForwarded,
            client_cert: ClientCertFile::Drop,
            via: "tidegate".to_owned(),
            forwarded: false,
            return_request_id: false,
            trace_sample: None,
        }
    }
}

impl Default for ShutdownFile {
    fn default() -> Self {
        Self { delay: duration("0s"), requests: duration("30s"), streams: duration("5m") }
    }
}

impl Default for EjectionFile {
    fn default() -> Self {
        Self::On(EjectionTableFile::default())
    }
}

impl Default for EjectionTableFile {
    fn default() -> Self {
        Self {
            consecutive: 5,
            ratio: 0.5,
            window: duration("10s"),
            min_requests: 20,
            time: duration("10s"),
            max: duration("5m"),
        }
    }
}

impl Default for HealthFile {
    fn default() -> Self {
        Self {
            kind: HealthKindFile::Http,
            path: None,
            method: None,
            host: None,
            headers: Table::default(),
            status: None,
            body: None,
            service: None,
            interval: duration("5s"),
            timeout: duration("2s"),
            rise: 2,
            fall: 3,
        }
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

impl Default for PoolFile {
    fn default() -> Self {
        Self { idle_max: 1024, idle_timeout: duration("4s") }
    }
}
