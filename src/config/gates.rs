//! What a service's rollouts are held up by: whom they ask, and for what.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method};

use super::destination::Destination;
use super::freeze::FreezeWindow;
use crate::model::JsonPath;

/// Gates by their names; the plan says when each is asked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GatesConfig {
    pub smoke: Option<Arc<SmokeConfig>>,
    pub webhooks: Vec<(String, Arc<WebhookConfig>)>,
    pub metrics: Vec<(String, Arc<MetricConfig>)>,
    pub freeze: Vec<FreezeWindow>,
}

impl GatesConfig {
    /// Whom hooks and metrics are of.
    pub fn destinations(&self) -> impl Iterator<Item = &Arc<Destination>> {
        let hooks = self.webhooks.iter().map(|(_, hook)| &hook.to);
        hooks.chain(self.metrics.iter().map(|(_, metric)| &metric.to))
    }
}

/// Requests that each endpoint of the candidate must answer as expected.
#[derive(Debug, PartialEq)]
pub struct SmokeConfig {
    pub checks: Vec<SmokeCheck>,
    /// For one request.
    pub timeout: Duration,
    /// Besides the first.
    pub retries: u32,
}

/// One of them.
#[derive(Debug, PartialEq)]
pub struct SmokeCheck {
    pub method: Method,
    pub path: PathAndQuery,
    /// `None`: the endpoint's own.
    pub host: Option<HeaderValue>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Empty: none.
    pub body: Bytes,
    /// Any of them.
    pub statuses: Vec<RangeInclusive<u16>>,
    /// Headers of the answer.
    pub answer_headers: Vec<(HeaderName, HeaderValue)>,
    /// Values of its JSON body, wherever the path leads.
    pub json: Vec<(JsonPath, serde_json::Value)>,
}

/// Somebody who is asked, or told, at points of a rollout.
#[derive(Debug, PartialEq)]
pub struct WebhookConfig {
    pub to: Arc<Destination>,
    /// Besides the first.
    pub retries: u32,
}

/// A number that is watched.
#[derive(Debug, PartialEq)]
pub struct MetricConfig {
    /// A Prometheus server.
    pub to: Arc<Destination>,
    /// PromQL, with `{service}`, `{backend}`, `{stable}` and `{revision}` to be filled in.
    pub query: String,
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub interval: Duration,
    /// In a row, until it has failed.
    pub failures: u32,
}
