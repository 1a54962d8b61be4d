//! The shape of proxy.toml: its keys, and what an editor says about them. The first paragraph of each comment is also
//! the hint that goes with a missing or ill-shaped value, so it speaks to whoever writes the file.

#![allow(
    rustdoc::broken_intra_doc_links,
    rustdoc::bare_urls,
    clippy::doc_markdown,
    clippy::doc_link_with_quotes,
    reason = "the comments are hints, shown as plain text"
)]

mod backend;
mod gates;
mod mirror;
mod notify;
mod preview;
mod process;
mod rollout;
mod routing;
mod service;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::table::Table;

pub(super) use self::backend::{
    BackendFile, BackendLimitsFile, BackendTlsFile, EjectionFile, HealthFile, HealthKindFile, PoolFile, ProtocolFile,
    ProxyVersionFile,
};
pub(super) use self::gates::{
    AskedAtFile, FreezeFile, JsonValueFile, MetricFile, OnFailureFile, PointFile, SmokeCheckFile, SmokeFile,
    WebhookFile, WeekdayFile,
};
pub(super) use self::mirror::{
    CompareFile, CompareTableFile, LargeBodyFile, MirrorByFile, MirrorFile, MirrorMatchFile, MirrorsFile, RedactFile,
};
pub(super) use self::notify::{NotifyFile, NotifyKindFile};
pub(super) use self::preview::PreviewFile;
pub(super) use self::process::{
    AdminFile, BelieveFile, ClientAuthFile, ClientAuthModeFile, ClientCertFile, ForwardingFile, LimitsFile,
    ListenerFile, LogFile, LogFormatFile, PairFile, ShutdownFile, TimeoutsFile,
};
pub(super) use self::rollout::{PercentText, RolloutFile, StepFile, StrategyFile};
pub(super) use self::routing::{CohortFile, RouteFile, RuleFile, StickyFile, ValueFile};
pub(super) use self::service::{
    AlgorithmFile, CompressionFile, ErrorsFile, GuardFile, HeaderChangesFile, HstsFile, MaintenanceFile, NetworkFile,
    ProbationFile, RateLimitByFile, RateLimitFile, RescueFile, RescueTableFile, RetryFile, RetryTableFile, ServiceFile,
    ServiceTimeoutsFile,
};

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

/// Text that is known to few: from the environment, or from a file of its own.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SecretFile {
    /// The environment variable that holds it.
    pub(super) env: Option<String>,
    /// The file that holds it, and nothing else.
    pub(super) file: Option<String>,
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

fn size(text: &str) -> SizeText {
    SizeText(text.to_owned())
}

fn resolve_interval() -> DurationText {
    duration("10s")
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}
