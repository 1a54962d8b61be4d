//! Who is told of events.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BackendTlsFile, DurationText, SecretFile};
use crate::config::table::Table;

/// Somebody outside who is told of events: a webhook, a chat, a dashboard or a pipeline.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct NotifyFile {
    /// Names it in metrics and in the history, like "release-chat".
    pub(in crate::config) name: String,
    /// What it understands: "webhook" (our events as JSON), "slack" and its like, "grafana" (annotations) or "cdevents".
    pub(in crate::config) kind: NotifyKindFile,
    /// Where each event is sent by POST.
    pub(in crate::config) url: String,
    /// Only events of these services; of all, and of the process, when left out.
    #[schemars(length(min = 1))]
    pub(in crate::config) services: Option<Vec<String>>,
    /// Only these kinds of events, like ["rollout_*", "drained"]; left out: all, or for people what they may act on.
    #[schemars(length(min = 1))]
    pub(in crate::config) events: Option<Vec<String>>,
    /// slack and grafana: what is said, with {service}, {kind}, {by}, {at}, {text} or what the event has in it.
    pub(in crate::config) text: Option<String>,
    /// More headers, { name = "value" }, like a token.
    #[serde(default)]
    pub(in crate::config) headers: Table<String>,
    /// Signs each message: { env = "NAME" } or { file = "path" }.
    pub(in crate::config) secret: Option<SecretFile>,
    /// How an https URL is verified: { ca = "ca.pem" } and others.
    pub(in crate::config) tls: Option<BackendTlsFile>,
    /// For one attempt, like "10s".
    #[serde(default = "notify_timeout")]
    pub(in crate::config) timeout: DurationText,
    /// For how long one event is tried before it is skipped, like "1h".
    #[serde(default = "notify_retry")]
    pub(in crate::config) retry: DurationText,
    /// Events that may wait; the oldest are skipped.
    #[serde(default = "notify_backlog")]
    #[schemars(range(min = 1, max = 10000))]
    pub(in crate::config) backlog: u32,
    /// cdevents: where services run; "production" when left out.
    pub(in crate::config) environment: Option<String>,
    /// cdevents: who says so, a URI reference; "/tidegate" when left out.
    pub(in crate::config) source: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(in crate::config) enum NotifyKindFile {
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
