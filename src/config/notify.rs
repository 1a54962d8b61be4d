//! Who outside is told of events.

use std::sync::Arc;
use std::time::Duration;

use super::Destination;
use crate::model::{EventPattern, ServiceName, TextTemplate};

/// One of them.
#[derive(Debug, Clone)]
pub struct SinkConfig {
    /// Names it in metrics, in the history, and in what is kept of how far it has come.
    pub name: String,
    pub kind: SinkKind,
    pub to: Arc<Destination>,
    /// Only events of these services; empty: of all, and those of none.
    pub services: Vec<ServiceName>,
    /// Only these kinds.
    pub events: Vec<EventPattern>,
    /// What people read; `None`: what `tidegate events` says.
    pub text: Option<TextTemplate>,
    /// The most events that wait for it.
    pub backlog: usize,
    /// For how long one event is tried.
    pub retry: Duration,
}

/// What it understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkKind {
    /// Our own events, as JSON.
    Webhook,
    /// Slack's incoming webhooks, and what is compatible with them.
    Slack,
    /// Grafana's annotations.
    Grafana,
    /// CDEvents in CloudEvents.
    CdEvents {
        /// Where services run, as pipelines name it.
        environment: String,
        /// Who says so: a URI reference.
        source: String,
    },
}
