//! Who is asked whether a rollout goes on, and when none may.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BackendTlsFile, DurationText, SecretFile, duration};
use crate::config::table::Table;

/// Requests that each endpoint of the new release must answer as expected.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct SmokeFile {
    /// [{ path = "/healthz", status = ["200"], json = { "$.ready" = true } }], asked one after the other.
    #[schemars(length(min = 1, max = 64))]
    pub(in crate::config) checks: Vec<SmokeCheckFile>,
    /// When they are asked: "before" the first step, before each further "step", before the "promotion" to 100 %.
    #[serde(default = "smoke_at")]
    #[schemars(length(min = 1))]
    pub(in crate::config) at: Vec<AskedAtFile>,
    /// For one request, like "5s".
    #[serde(default = "smoke_timeout")]
    pub(in crate::config) timeout: DurationText,
    /// Further tries of a request that failed.
    #[serde(default = "smoke_retries")]
    #[schemars(range(max = 10))]
    pub(in crate::config) retries: u32,
    /// What follows when one fails: "rollback" or "pause".
    #[serde(default = "rollback")]
    pub(in crate::config) on_failure: OnFailureFile,
}

/// One request, and what is expected of its answer.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct SmokeCheckFile {
    /// Path and query, like "/healthz".
    pub(in crate::config) path: String,
    /// Its method; GET when left out.
    pub(in crate::config) method: Option<String>,
    /// The host asked for; the endpoint's own when left out.
    pub(in crate::config) host: Option<String>,
    /// Its headers: { x-probe = "tidegate" }.
    #[serde(default)]
    pub(in crate::config) headers: Table<String>,
    /// Its body; it needs a method that has one, and a content-type among the headers.
    pub(in crate::config) body: Option<String>,
    /// Good statuses: ["200", "300-399"]; ["200-299"] when left out.
    #[schemars(length(min = 1))]
    pub(in crate::config) status: Option<Vec<String>>,
    /// Headers that its answer must have: { content-type = "application/json" }.
    #[serde(default)]
    pub(in crate::config) answer_headers: Table<String>,
    /// Values that its JSON body must have, by places: { "$.status" = "ok", "$.items[*].stock" = 1 }.
    #[serde(default)]
    pub(in crate::config) json: Table<JsonValueFile>,
}

/// A text in quotes, a number, true or false.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(in crate::config) enum JsonValueFile {
    Text(String),
    Number(f64),
    Switch(bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(in crate::config) enum AskedAtFile {
    Before,
    Step,
    Promotion,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(in crate::config) enum PointFile {
    Before,
    Step,
    Promotion,
    After,
    Rollback,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(in crate::config) enum OnFailureFile {
    Pause,
    Rollback,
}

/// Somebody who is asked, by POST: 2xx is a yes, every other answer a no.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct WebhookFile {
    /// Whom: "https://ci.example.com/hooks/shop".
    pub(in crate::config) url: String,
    /// When: "before" the first step, before each further "step", before the "promotion" to 100 %; and told "after" the end, or of a "rollback".
    #[schemars(length(min = 1))]
    pub(in crate::config) at: Vec<PointFile>,
    /// More headers: { authorization = "Bearer ${CI_TOKEN}" }.
    #[serde(default)]
    pub(in crate::config) headers: Table<String>,
    /// Signs each call: { env = "NAME" } or { file = "path" }; unsigned when left out.
    pub(in crate::config) secret: Option<SecretFile>,
    /// For https: { ca = "ca.pem" }, and a certificate to show.
    pub(in crate::config) tls: Option<BackendTlsFile>,
    /// For one call, like "10s".
    #[serde(default = "webhook_timeout")]
    pub(in crate::config) timeout: DurationText,
    /// Further tries where there is no answer, a 429 or a 5xx.
    #[serde(default = "webhook_retries")]
    #[schemars(range(max = 10))]
    pub(in crate::config) retries: u32,
    /// What follows a no: "pause" or "rollback".
    #[serde(default = "pause")]
    pub(in crate::config) on_failure: OnFailureFile,
}

/// A number that is watched while a rollout is under way.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct MetricFile {
    /// The Prometheus server: "http://prometheus:9090".
    pub(in crate::config) url: String,
    /// PromQL for one number; {service}, {backend}, {stable} and {revision} are filled in.
    pub(in crate::config) query: String,
    /// It must be at least this; there is min, max or both.
    pub(in crate::config) min: Option<f64>,
    /// It must be at most this.
    pub(in crate::config) max: Option<f64>,
    /// How often it is asked for, like "10s"; the first time so long after a step has begun.
    #[serde(default = "metric_interval")]
    pub(in crate::config) interval: DurationText,
    /// How often in a row it must be out of bounds to count.
    #[serde(default = "metric_failures")]
    #[schemars(range(min = 1, max = 1000))]
    pub(in crate::config) failures: u32,
    /// More headers: { authorization = "Bearer ${PROMETHEUS_TOKEN}" }.
    #[serde(default)]
    pub(in crate::config) headers: Table<String>,
    /// For https: { ca = "ca.pem" }, and a certificate to show.
    pub(in crate::config) tls: Option<BackendTlsFile>,
    /// For one query, like "5s".
    #[serde(default = "metric_timeout")]
    pub(in crate::config) timeout: DurationText,
    /// What follows when it is out of bounds: "rollback" or "pause".
    #[serde(default = "rollback")]
    pub(in crate::config) on_failure: OnFailureFile,
}

/// A time in which nothing goes toward a new release: all of it must hold.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct FreezeFile {
    /// Days of the week: ["fri", "sat", "sun"]; every day when left out.
    #[schemars(length(min = 1))]
    pub(in crate::config) weekdays: Option<Vec<WeekdayFile>>,
    /// First and last day: ["2026-12-20", "2027-01-02"]; all year when left out.
    #[schemars(length(min = 1, max = 2))]
    pub(in crate::config) dates: Option<Vec<String>>,
    /// From when to when: "16:00-24:00"; the whole day when left out.
    pub(in crate::config) hours: Option<String>,
    /// Whose calendar and clock: "Europe/Berlin"; UTC when left out.
    pub(in crate::config) time_zone: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(in crate::config) enum WeekdayFile {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
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
