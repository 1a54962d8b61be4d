//! From what the file says of a service to what it means with what was deployed live.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::config::{EndpointConfig, EndpointHost, MIRRORS_MAX, MirrorConfig, RuleConfig, ServiceConfig, endpoint};
use crate::model::{BackendName, Deployed, Deployment, Percent};

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
    if let Some(open) = &live.rollout
        && let Some(backend) = index(&open.candidate)
    {
        // After the file's own rules, which name backends on purpose.
        let cohort = file.rollout.cohort.iter().filter(|_| open.cohort);
        let chosen = file.rollout.preview.iter().chain(cohort);
        config.rules.extend(chosen.map(|matches| RuleConfig { matches: matches.clone(), backend }));
        mirrored(&mut config, backend, open.mirrored);
    }
    config
}

/// Has requests copied for a backend: a rollout's step does.
fn mirrored(config: &mut ServiceConfig, backend: usize, percent: f64) {
    let usual = config.rollout.mirrors.iter().find(|mirror| mirror.backend == backend);
    let Some(mirror) = usual.filter(|_| percent > 0.0) else { return };
    let Ok(percent) = Percent::new(percent) else { return };
    let mirror = Arc::new(MirrorConfig { percent, ..(**mirror).clone() });
    let has_room = config.mirrors.len() < MIRRORS_MAX;
    match config.mirrors.iter_mut().find(|own| own.backend == backend) {
        Some(own) => *own = mirror,
        None if has_room => config.mirrors.push(mirror),
        None => {}
    }
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
