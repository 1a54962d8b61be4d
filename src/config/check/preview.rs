//! Previews: who they are for, and whether the hosts that are theirs are nobody else's.

use std::collections::HashMap;

use super::conditions::RuleConditions;
use super::{Check, Fault, host, unless_reported};
use crate::config::file::{PreviewFile, ServiceFile};
use crate::config::key_path::KeyPath;
use crate::config::preview::PreviewConfig;
use crate::config::table::Table;
use crate::config::types::ServiceConfig;
use crate::model::{HostMatch, RuleMatch};

impl Check<'_, '_> {
    pub(super) fn previews(&mut self, at: &KeyPath, files: &[PreviewFile]) -> Option<Vec<PreviewConfig>> {
        let previews = files.iter().enumerate().map(|(index, file)| self.preview(&at.index(index), file));
        previews.collect::<Vec<_>>().into_iter().collect()
    }

    fn preview(&mut self, at: &KeyPath, file: &PreviewFile) -> Option<PreviewConfig> {
        let PreviewFile { host, headers, query, cookies, networks } = file;
        let host = host.as_ref().map(|text| self.accept(&at.key("host"), one_host(text)));
        let is_alone = headers.0.is_empty() && query.0.is_empty() && cookies.0.is_empty() && networks.is_none();
        let matches = if host.is_some() && is_alone {
            Some(RuleMatch::default())
        } else {
            self.rule_match(at, &RuleConditions { headers, query, cookies, networks: networks.as_deref() })
        };
        Some(PreviewConfig { host: unless_reported(host)?, matches: matches? })
    }

    /// `services`: in the order of `files`; `None` where one was reported.
    pub(super) fn preview_hosts(
        &mut self,
        at: &KeyPath,
        files: &Table<ServiceFile>,
        services: &[Option<ServiceConfig>],
    ) {
        let known = || files.0.iter().zip(services).filter_map(|((name, _), of)| Some((name, of.as_ref()?)));
        if known().all(|(_, service)| service.rollout.preview_hosts().is_empty()) {
            return;
        }
        let mut routes: HashMap<&str, KeyPath> = HashMap::new();
        for (name, service) in known() {
            for (index, route) in service.routes.iter().enumerate() {
                if let HostMatch::Exact(host) = &route.host {
                    routes.entry(host).or_insert_with(|| at.key(name).key("routes").index(index));
                }
            }
        }
        // By host: which service shows its releases there, and where the file says so.
        let mut shown: HashMap<&str, (&str, KeyPath)> = HashMap::new();
        for (name, service) in known() {
            let at_previews = at.key(name).key("rollout").key("preview");
            for (index, preview) in service.rollout.preview.iter().enumerate() {
                let Some(host) = preview.host.as_deref() else { continue };
                let at = at_previews.index(index).key("host");
                if let Some(route) = routes.get(host) {
                    let message = format!("{host:?} is the host of {}", self.report.place(route));
                    let hint = format!("give the preview a host of its own, like \"preview.{host}\"");
                    self.report.problem(&at, message, hint);
                    continue;
                }
                let (owner, first) = shown.entry(host).or_insert_with(|| (name, at.clone()));
                if *owner != name {
                    let message = format!("{host:?} shows the releases of {} already", self.report.place(first));
                    self.report.problem(&at, message, "give each service's preview a host of its own");
                }
            }
        }
    }
}

/// One that a request can name; many would be a route's.
fn one_host(text: &str) -> Result<String, Fault> {
    match host::host_match(text)? {
        HostMatch::Exact(host) => Ok(host),
        HostMatch::Any | HostMatch::Wildcard(_) => Err(Fault::new(
            format!("{text:?} is more than one host"),
            "write the one that shows the release, like \"preview.shop.example.com\"",
        )),
    }
}
