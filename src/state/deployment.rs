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
        let Some(backend) = index(&deployed.backend).map(|index| &mut config.backends[index]) else { continue };
        match endpoints(deployed) {
            _ if deployed.is_revision_alone() => backend.revision.clone_from(&deployed.revision),
            Some(endpoints) => {
                backend.revision.clone_from(&deployed.revision);
                backend.endpoints = endpoints;
            }
            None => {}
        }
    }
    if let Some(open) = &live.rollout
        && let Some(backend) = index(&open.candidate)
    {
        // After the file's own rules, which name backends on purpose.
        let cohort = file.rollout.cohort.iter().filter(|_| open.cohort);
        let preview = file.rollout.preview.iter().filter(|preview| preview.host.is_none());
        let chosen = preview.map(|preview| &preview.matches).chain(cohort);
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
            // Where the endpoints are the file's, more of them are no other revision.
            let is_there = deployed.is_revision_alone()
                || (deployed.replaced_endpoints == told(&backend.endpoints) && endpoints(deployed).is_some());
            deployed.replaced_revision == backend.revision && is_there
        })
    });
    let rollout = live.rollout.clone().filter(|open| found(&open.candidate).is_some());
    Deployment { service: live.service.clone(), stable, backends: backends.cloned().collect(), rollout }
}

/// What is deployed once a backend runs another revision at the same endpoints; `None`: it runs there already.
#[must_use]
pub fn with_revision(
    live: Option<&Deployment>,
    file: &ServiceConfig,
    backend: &BackendName,
    revision: &str,
) -> Option<Deployment> {
    let config = file.backends.iter().find(|known| known.name == *backend)?;
    let now = live_revision(live, backend).unwrap_or(&config.revision);
    if now == revision {
        return None;
    }
    let mut next = live.cloned().unwrap_or_else(|| Deployment::none(file.name.clone()));
    match next.backends.iter_mut().find(|deployed| deployed.backend == *backend) {
        Some(deployed) => revision.clone_into(&mut deployed.revision),
        None => next.backends.push(Deployed {
            backend: backend.clone(),
            revision: revision.to_owned(),
            endpoints: Vec::new(),
            replaced_revision: config.revision.clone(),
            replaced_endpoints: Vec::new(),
        }),
    }
    // As the file has it again: there is nothing left to say.
    next.backends.retain(|deployed| !deployed.is_revision_alone() || deployed.revision != deployed.replaced_revision);
    Some(next)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn file(revision: &str, endpoints: &[&str]) -> ServiceConfig {
        let text = format!(
            "[[listeners]]\naddress = \"127.0.0.1:0\"\n[services.shop.backends.blue]\nweight = 1\n\
             revision = {revision:?}\nendpoints = {endpoints:?}\n"
        );
        let parsed = crate::config::parse(&text, std::path::Path::new("proxy.toml"), &|_| None, None).unwrap();
        ServiceConfig::clone(&parsed.config.services[0])
    }

    fn runs(file: &ServiceConfig, live: &Deployment) -> (String, Vec<String>) {
        let config = deployed(file, live);
        (config.backends[0].revision.clone(), told(&config.backends[0].endpoints))
    }

    #[test]
    fn another_revision_at_the_same_endpoints_is_laid_over_what_is_there_and_nothing_is_left_of_the_files_own() {
        let (blue, at) =
            (file("v1", &["http://127.0.0.1:1"]), told(&file("v1", &["http://127.0.0.1:1"]).backends[0].endpoints));
        let name: BackendName = "blue".parse().unwrap();
        let rolled = with_revision(None, &blue, &name, "v2").unwrap();
        assert_eq!(runs(&blue, &rolled), ("v2".into(), at.clone()));
        assert_eq!(with_revision(Some(&rolled), &blue, &name, "v2"), None);
        assert!(with_revision(Some(&rolled), &blue, &name, "v1").unwrap().is_none());

        // What a rollout has put there keeps its endpoints, under the file's revision, too.
        let replaced = Deployed {
            backend: name.clone(),
            revision: "v3".into(),
            endpoints: vec!["http://127.0.0.1:3".into()],
            replaced_revision: "v1".into(),
            replaced_endpoints: at,
        };
        let live = Deployment { backends: vec![replaced], ..Deployment::none(blue.name.clone()) };
        for revision in ["v4", "v1"] {
            let rolled = with_revision(Some(&live), &blue, &name, revision).unwrap();
            assert_eq!(runs(&blue, &rolled).0, revision);
            assert_eq!(rolled.backends[0].endpoints, ["http://127.0.0.1:3"]);
            assert_eq!(still_holds(Some(&blue), &rolled), rolled);
        }
    }

    #[test]
    fn a_rolled_revision_outlives_more_endpoints_and_no_other_revision() {
        let name: BackendName = "blue".parse().unwrap();
        let rolled = with_revision(None, &file("v1", &["http://127.0.0.1:1"]), &name, "v2").unwrap();
        let more = file("v1", &["http://127.0.0.1:1", "http://127.0.0.1:2"]);
        assert_eq!(still_holds(Some(&more), &rolled), rolled);
        assert_eq!(runs(&more, &rolled).1, told(&more.backends[0].endpoints));
        assert!(still_holds(Some(&file("v5", &["http://127.0.0.1:1"])), &rolled).is_none());
        assert!(still_holds(None, &rolled).is_none());
    }
}
