//! A backend: its endpoints, connections to them, their health.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DurationText, duration};
use crate::config::table::Table;

/// One deployment of a service.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct BackendFile {
    /// Share of the service's requests, relative to the other backends' weights; fractions and 0 are fine.
    pub(in crate::config) weight: f64,
    /// What runs there: an image digest, a git sha, any text that never changes its meaning; left out: the endpoints stand for it.
    #[schemars(length(min = 1, max = 256))]
    pub(in crate::config) revision: Option<String>,
    /// Where it listens: ["http://127.0.0.1:9001"] or ["https://app.internal"].
    #[schemars(length(min = 1))]
    pub(in crate::config) endpoints: Vec<String>,
    /// What its endpoints speak: "h1" (HTTP/1.1) or "h2" (HTTP/2, which gRPC needs).
    #[serde(default)]
    pub(in crate::config) protocol: ProtocolFile,
    /// Begin each connection with a PROXY header of this version, "v1" or "v2"; needs protocol = "h1".
    pub(in crate::config) proxy_protocol: Option<ProxyVersionFile>,
    /// How https endpoints are verified: { ca = "ca.pem" }; left out: by the system's authorities.
    pub(in crate::config) tls: Option<BackendTlsFile>,
    /// Idle connections to each endpoint: { idle_max = 1024, idle_timeout = "4s" }.
    #[serde(default)]
    pub(in crate::config) pool: PoolFile,
    /// Asks each endpoint again and again whether it is well: { path = "/healthz" } and others; not at all when left out.
    pub(in crate::config) health: Option<HealthFile>,
    /// Requests at once, and who waits: { requests = 100, queue = 100 } and others; any number when left out.
    pub(in crate::config) limits: Option<BackendLimitsFile>,
}

/// "off", or a table that says when and for how long.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(in crate::config) enum EjectionFile {
    Off(String),
    On(EjectionTableFile),
}

/// When an endpoint's failures take it out, and for how long.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct EjectionTableFile {
    /// Failures in a row.
    #[schemars(range(min = 1, max = 1000000))]
    pub(in crate::config) consecutive: u32,
    /// Failed part of what ended in the last window, above 0 and up to 1.
    pub(in crate::config) ratio: f64,
    /// What ratio is taken of, like "10s".
    pub(in crate::config) window: DurationText,
    /// With fewer requests than this in a window, ratio says nothing.
    #[schemars(range(min = 1, max = 1000000000))]
    pub(in crate::config) min_requests: u64,
    /// How long the first time, like "10s"; it grows with each time in a row.
    pub(in crate::config) time: DurationText,
    /// How long at most, like "5m".
    pub(in crate::config) max: DurationText,
}

/// How each endpoint is asked whether it is well.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct HealthFile {
    /// What is asked: "http", "grpc" (the service grpc.health.v1.Health) or "tcp" (can it be connected to?).
    pub(in crate::config) kind: HealthKindFile,
    /// http: the path, with its query if it has one, like "/healthz".
    pub(in crate::config) path: Option<String>,
    /// http: the method; "GET" when left out.
    pub(in crate::config) method: Option<String>,
    /// http and grpc: the host that is asked for; the endpoint's own when left out.
    pub(in crate::config) host: Option<String>,
    /// http: more headers, { name = "value" }.
    pub(in crate::config) headers: Table<String>,
    /// http: good statuses, single ones and ranges: ["200-299", "304"]; 200 to 299 when left out.
    #[schemars(length(min = 1))]
    pub(in crate::config) status: Option<Vec<String>>,
    /// http: a regular expression that matches somewhere in the first 64 KiB of the answer's body.
    pub(in crate::config) body: Option<String>,
    /// grpc: the service that is asked about; the whole server when left out.
    pub(in crate::config) service: Option<String>,
    /// From one check to the next, like "5s"; shorter while the outcome changes.
    pub(in crate::config) interval: DurationText,
    /// For one check, from the connect to the end of the answer, like "2s".
    pub(in crate::config) timeout: DurationText,
    /// Good checks in a row after which an endpoint gets requests again.
    #[schemars(range(min = 1, max = 1000))]
    pub(in crate::config) rise: u32,
    /// Failed checks in a row after which an endpoint gets none.
    #[schemars(range(min = 1, max = 1000))]
    pub(in crate::config) fall: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(in crate::config) enum HealthKindFile {
    Http,
    Grpc,
    Tcp,
}

/// Requests at once, of all workers together, and how those beyond wait.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct BackendLimitsFile {
    /// Requests at once on all endpoints together; any number when left out.
    #[schemars(range(min = 1, max = 1000000))]
    pub(in crate::config) requests: Option<u32>,
    /// Requests at once on each endpoint; any number when left out.
    #[schemars(range(min = 1, max = 1000000))]
    pub(in crate::config) requests_per_endpoint: Option<u32>,
    /// Requests that wait for their turn; those beyond get 503 at once, as all do with 0.
    #[serde(default = "queue")]
    #[schemars(range(max = 1000000))]
    pub(in crate::config) queue: u32,
    /// How long a request waits for its turn before it gets 503, like "1s".
    #[serde(default = "queue_timeout")]
    pub(in crate::config) queue_timeout: DurationText,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(in crate::config) enum ProtocolFile {
    #[default]
    H1,
    H2,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(in crate::config) enum ProxyVersionFile {
    V1,
    V2,
}

/// How https endpoints are verified.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct BackendTlsFile {
    /// PEM file of the authorities to trust instead of the system's.
    pub(in crate::config) ca: Option<String>,
    /// PEM file with a client certificate to show; needs key.
    pub(in crate::config) cert: Option<String>,
    /// PEM file with the client certificate's private key; needs cert.
    pub(in crate::config) key: Option<String>,
    /// Name that the endpoints' certificates must carry, instead of the endpoint's own host.
    pub(in crate::config) server_name: Option<String>,
}

/// Idle connections that each worker keeps to each endpoint.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct PoolFile {
    /// The most that are kept; 0 for none.
    #[schemars(range(max = 65536))]
    pub(in crate::config) idle_max: usize,
    /// How long one is kept, like "4s"; below the endpoint's own keep-alive time.
    pub(in crate::config) idle_timeout: DurationText,
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

impl Default for PoolFile {
    fn default() -> Self {
        Self { idle_max: 1024, idle_timeout: duration("4s") }
    }
}

fn queue() -> u32 {
    100
}

fn queue_timeout() -> DurationText {
    duration("1s")
}
