//! Who sees a release before others do.

use schemars::JsonSchema;
use serde::Deserialize;

use super::ValueFile;
use crate::config::table::Table;

/// Requests that get a new release while its rollout is under way: every condition given must hold, and there is at least one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct PreviewFile {
    /// A host that no route has, like "preview.shop.example.com": it shows the new release, and nothing at other times.
    pub(in crate::config) host: Option<String>,
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
