//! What the process as a whole is told: where it listens, its limits, logs and API.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DurationText, SizeText, duration, size};

/// An address that clients connect to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ListenerFile {
    /// IP address and port, like "0.0.0.0:80" or "[::]:443".
    pub(in crate::config) address: String,
    /// Certificates, chosen by the name the client asks for; the first answers when none fits. Left out: no TLS.
    #[schemars(length(min = 1))]
    pub(in crate::config) tls: Option<Vec<PairFile>>,
    /// Client connections open at once on this listener; left out, only [limits] counts.
    #[schemars(range(min = 1))]
    pub(in crate::config) connections: Option<u64>,
    /// Networks of proxies that begin each connection with a PROXY header, like ["10.0.0.0/8"]; nobody else is let in.
    #[schemars(length(min = 1))]
    pub(in crate::config) proxy_protocol: Option<Vec<String>>,
    /// Clients' certificates: { ca = "ca.pem" }; needs tls.
    pub(in crate::config) client_auth: Option<ClientAuthFile>,
}

/// Which certificates clients have to show.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ClientAuthFile {
    /// PEM file of the authorities that clients' certificates come from.
    pub(in crate::config) ca: String,
    /// "required", or "optional" for clients that may do without.
    #[serde(default)]
    pub(in crate::config) mode: ClientAuthModeFile,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(in crate::config) enum ClientAuthModeFile {
    #[default]
    Required,
    Optional,
}

/// A certificate and its private key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct PairFile {
    /// PEM file with the certificate, followed by its intermediates.
    pub(in crate::config) cert: String,
    /// PEM file with the certificate's private key.
    pub(in crate::config) key: String,
}

/// What endpoints and clients are told about a request's way.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct ForwardingFile {
    /// The words that trusted_proxies are believed in: "x-forwarded", "forwarded" (RFC 7239) or "both".
    pub(in crate::config) believe: BelieveFile,
    /// Client-Cert and its like, sent by trusted_proxies: "drop", or "trust" where those make or clean them.
    pub(in crate::config) client_cert: ClientCertFile,
    /// Our name in the Via header of requests and responses, or "off" for none.
    pub(in crate::config) via: String,
    /// true: requests have the Forwarded header (RFC 7239), too.
    pub(in crate::config) forwarded: bool,
    /// true: endpoints' responses have the x-request-id that the request had; our own errors always have it.
    pub(in crate::config) return_request_id: bool,
    /// Start a trace for requests that come without one, and have this share of them recorded, from 0 to 1.
    pub(in crate::config) trace_sample: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub(in crate::config) enum BelieveFile {
    XForwarded,
    Forwarded,
    Both,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(in crate::config) enum ClientCertFile {
    Drop,
    Trust,
}

/// The admin API.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct AdminFile {
    /// IP address and port, like "127.0.0.1:9900".
    pub(in crate::config) address: String,
    /// Asked of every caller as "Authorization: Bearer TOKEN"; needed when the address is not loopback.
    pub(in crate::config) token: Option<String>,
}

/// What tidegate says about itself.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct LogFile {
    /// Least level that is shown, for all or by module: "info", "debug", "tidegate=debug,warn".
    pub(in crate::config) filter: String,
    /// "text" for people or "json" for machines.
    pub(in crate::config) format: LogFormatFile,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(in crate::config) enum LogFormatFile {
    Text,
    Json,
}

/// How much clients may take.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct LimitsFile {
    /// Client connections open at once, on all listeners; left out, what the limit of open files allows.
    #[schemars(range(min = 1))]
    pub(in crate::config) connections: Option<u64>,
    /// Client connections open at once from one IPv4 address or one IPv6 /64; left out, any number.
    #[schemars(range(min = 1))]
    pub(in crate::config) connections_per_client: Option<u32>,
    /// Requests on one client connection before it is closed.
    #[schemars(range(min = 1))]
    pub(in crate::config) requests_per_connection: u64,
    /// The largest head of a request, like "32KiB".
    pub(in crate::config) header_bytes: SizeText,
    /// Header fields of one request.
    #[schemars(range(min = 1, max = 10000))]
    pub(in crate::config) headers: usize,
    /// Requests at once on one HTTP/2 connection of a client.
    #[schemars(range(min = 1, max = 10000))]
    pub(in crate::config) streams: u32,
    /// Body bytes that a client may send ahead in one HTTP/2 request, like "64KiB".
    pub(in crate::config) stream_window: SizeText,
    /// Body bytes that a client may send ahead on one HTTP/2 connection, like "1MiB".
    pub(in crate::config) connection_window: SizeText,
    /// The longest path with its query, like "8KiB".
    pub(in crate::config) uri_bytes: SizeText,
    /// What a client must send of a body in timeouts.body_idle while it is waited for, like "1KiB"; "1B": anything.
    pub(in crate::config) body_pace: SizeText,
    /// Memory of the whole process, like "2GiB"; 80 % of what the machine or the cgroup has when left out.
    pub(in crate::config) memory: Option<SizeText>,
    /// Bodies of requests and answers that mirrors hold at a time, of all services together, like "64MiB".
    pub(in crate::config) mirror_memory: SizeText,
}

/// How long clients and endpoints may take.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct TimeoutsFile {
    /// For a client's TLS handshake, like "10s".
    pub(in crate::config) tls_handshake: DurationText,
    /// From a request's first byte to the end of its head, like "10s".
    pub(in crate::config) header_read: DurationText,
    /// How long a client may keep an idle connection, like "5m".
    pub(in crate::config) keep_alive: DurationText,
    /// How long a WebSocket, another tunnel, an event stream or a gRPC call may be silent, like "1h".
    pub(in crate::config) tunnel_idle: DurationText,
    /// How long a body under way may stand still, whoever is to move it, like "60s"; services may say otherwise.
    pub(in crate::config) body_idle: DurationText,
    /// For a whole request, from its head to the end of its answer, like "10m"; no limit when left out; services may
    /// say otherwise.
    pub(in crate::config) request: Option<DurationText>,
    /// For connecting to an endpoint, TLS included, like "3s"; services may say otherwise.
    pub(in crate::config) connect: DurationText,
    /// From the request's last byte to the head of the endpoint's answer, like "60s"; services may say otherwise.
    pub(in crate::config) response_header: DurationText,
    /// How long after a backend's first refused connection requests wait for it to listen again, like "5s"; "0s": not
    /// at all; services may say otherwise.
    pub(in crate::config) restart_wait: DurationText,
}

/// Deadlines of a graceful stop.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct ShutdownFile {
    /// How long /readyz says no before new connections are refused, like "5s".
    pub(in crate::config) delay: DurationText,
    /// For requests under way, like "30s".
    pub(in crate::config) requests: DurationText,
    /// For WebSockets, server-sent events and gRPC streams, like "5m".
    pub(in crate::config) streams: DurationText,
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
