//! From what the file says of a service to what it means with what was deployed live.

use std::collections::BTreeSet;

use crate::config::{EndpointConfig, EndpointHost, RuleConfig, ServiceConfig, endpoint};
use crate::model::{BackendName, Deployed, Deployment};

/// The file's service with a deployment in force.
pub(super) fn deployed(file: &ServiceConfig, live: &Deployment) -> ServiceConfig {
    let mut config = file.clone();
    let index = |name: &BackendName| file.backends.iter().position(|backend| backend.name == *name);
    if let Some(stable) = live.stable.as_ref().and_then(|stable| index(&stable.backend)) {
        config.stable = stable;
    }
    for deployed in &live.backends {
        if let (Some(index), Some(endpoints)) = (index(&deployed.backend), endpoints(deployed)) {
            config.backends[index].revision.clone_from(&deployed.revision);
            config.backends[index].endpoints = endpoints;
        }
    }
    if let Some(open) = live.rollout.as_ref().filter(|open| open.cohort)
        && let Some(backend) = index(&open.candidate)
    {
        // After the file's own rules, which name backends on purpose.
        let cohort = file.rollout.cohort.iter().map(|matches| RuleConfig { matches: matches.clone(), backend });
        config.rules.extend(cohort);
    }
    config
}

/// What of a deployment still holds with this file.
pub(super) fn still_holds(file: Option<&ServiceConfig>, live: &Deployment) -> Deployment {
    let Some(file) = file else { return Deployment::none(live.service.clone()) };
    let found = |name: &BackendName| file.backends.iter().find(|backend| backend.name == *name);
    let stable = live
        .stable
        .clone()
        .filter(|stable| file.backends[file.stable].name == stable.replaced && found(&stable.backend).is_some());
    let backends = live.backends.iter().filter(|deployed| {
        found(&deployed.backend).is_some_and(|backend| {
            deployed.replaced_revision == backend.revision
                && deployed.replaced_endpoints == told(&backend.endpoints)
                && endpoints(deployed).is_some()
        })
    });
    let rollout = live.rollout.clone().filter(|open| found(&open.candidate).is_some());
    Deployment { service: live.service.clone(), stable, backends: backends.cloned().collect(), rollout }
}

/// The revision that a deployment has put into a backend.
pub(super) fn live_revision<'d>(live: Option<&'d Deployment>, backend: &BackendName) -> Option<&'d str> {
    Some(live?.of(backend)?.revision.as_str())
}

/// Host names of deployed endpoints.
pub(super) fn deployed_names<'d>(all: impl Iterator<Item = &'d Deployment>) -> BTreeSet<String> {
    let endpoints = all.flat_map(|live| &live.backends).filter_map(endpoints).flatten();
    let names = endpoints.filter_map(|endpoint| match endpoint.host {
        EndpointHost::Name(name) => Some(name),
        EndpointHost::Address(_) => None,
    });
    names.collect()
}

/// As a deployment remembers them.
pub(super) fn told(endpoints: &[EndpointConfig]) -> Vec<String> {
    endpoints.iter().map(ToString::to_string).collect()
}

/// They were checked when they were deployed; what another version can't read is none.
fn endpoints(deployed: &Deployed) -> Option<Vec<EndpointConfig>> {
    let endpoints: Option<Vec<_>> = deployed.endpoints.iter().map(|text| endpoint(text).ok()).collect();
    endpoints.filter(|endpoints| !endpoints.is_empty())
}
