//! Requests that see a release before others do.

use std::collections::HashSet;

use super::types::RolloutConfig;
use crate::model::RuleMatch;

/// Which they are: all of it must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct PreviewConfig {
    /// Lower case, without a port and without a trailing dot. Its requests are for the release alone; `None`: any host
    /// that the service's routes take.
    pub host: Option<String>,
    /// Empty where the host is enough.
    pub matches: RuleMatch,
}

impl RolloutConfig {
    /// Hosts that are a preview's own, each once, in the order of the file.
    #[must_use]
    pub fn preview_hosts(&self) -> Vec<&str> {
        let mut seen = HashSet::new();
        let hosts = self.preview.iter().filter_map(|preview| preview.host.as_deref());
        hosts.filter(|host| seen.insert(*host)).collect()
    }
}
