//! Which requests: routes, rules, cohorts, and what keeps a client with its backend.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{DurationText, NetworkFile};
use crate::config::table::Table;

/// Some of a service's requests: every condition given must hold.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ConditionsFile {
    /// Headers by name: an exact value, { present = true } or { regex = "…" }.
    #[serde(default)]
    pub(in crate::config) headers: Table<ValueFile>,
    /// Query parameters by name: an exact value, { present = true } or { regex = "…" }.
    #[serde(default)]
    pub(in crate::config) query: Table<ValueFile>,
    /// Cookies by name: an exact value, { present = true } or { regex = "…" }.
    #[serde(default)]
    pub(in crate::config) cookies: Table<ValueFile>,
    /// Client addresses: ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"].
    #[schemars(length(min = 1))]
    pub(in crate::config) networks: Option<Vec<String>>,
}

/// Which requests a service takes: every condition given must hold.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RouteFile {
    /// "shop.example.com", "*.example.com", or "*" for any host (as when left out).
    pub(in crate::config) host: Option<String>,
    /// The path and everything below it: "/api" takes /api and /api/x, not /apix; "/" when left out.
    pub(in crate::config) path: Option<String>,
    /// This path alone.
    pub(in crate::config) path_exact: Option<String>,
    /// A regular expression for the whole path.
    pub(in crate::config) path_regex: Option<String>,
    /// Like ["GET", "HEAD"]; every method when left out.
    pub(in crate::config) methods: Option<Vec<String>>,
    /// Headers by name: an exact value, { present = true } or { regex = "…" }.
    #[serde(default)]
    pub(in crate::config) headers: Table<ValueFile>,
    /// Query parameters by name: an exact value, { present = true } or { regex = "…" }.
    #[serde(default)]
    pub(in crate::config) query: Table<ValueFile>,
    /// Cookies by name: an exact value, { present = true } or { regex = "…" }.
    #[serde(default)]
    pub(in crate::config) cookies: Table<ValueFile>,
    /// true: the guard compares the backends on this route by itself, too, so that its failures aren't lost among the rest.
    #[serde(default)]
    pub(in crate::config) judged: bool,
}

/// An exact value in quotes, { present = true } or { regex = "…" }.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(in crate::config) enum ValueFile {
    Exact(String),
    Pattern(PatternFile),
}

/// One of { present = true } and { regex = "…" }.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct PatternFile {
    /// true: it must be there, whatever its value.
    pub(in crate::config) present: Option<bool>,
    /// A regular expression that matches anywhere in the value.
    pub(in crate::config) regex: Option<String>,
}

/// By what clients are recognised: exactly one of cookie, header and network.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct StickyFile {
    /// Name of a cookie that tidegate sets.
    pub(in crate::config) cookie: Option<String>,
    /// How long the cookie lives, like "30d", which it is when left out.
    pub(in crate::config) max_age: Option<DurationText>,
    /// Name of a header that tells clients apart.
    pub(in crate::config) header: Option<String>,
    /// Leading bits of the client's address that tell clients apart: { ipv4 = 32, ipv6 = 64 }.
    pub(in crate::config) network: Option<NetworkFile>,
}

/// Requests that go to one backend: every condition given must hold, and there is at least one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RuleFile {
    /// The backend that these requests go to.
    pub(in crate::config) backend: String,
    /// Headers by name: an exact value, { present = true } or { regex = "…" }.
    #[serde(default)]
    pub(in crate::config) headers: Table<ValueFile>,
    /// Query parameters by name: an exact value, { present = true } or { regex = "…" }.
    #[serde(default)]
    pub(in crate::config) query: Table<ValueFile>,
    /// Cookies by name: an exact value, { present = true } or { regex = "…" }.
    #[serde(default)]
    pub(in crate::config) cookies: Table<ValueFile>,
    /// Client addresses: ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"].
    #[schemars(length(min = 1))]
    pub(in crate::config) networks: Option<Vec<String>>,
}
