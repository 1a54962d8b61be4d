//! What a rollout changes of its service, and whether the service is still as the rollout left it.

use std::collections::HashMap;

use super::error::RolloutError;
use super::machine::Traffic;
use super::record::Record;
use super::sight::Sides;
use crate::config::{EndpointConfig, Scheme, ServiceConfig};
use crate::model::{BackendName, Deployed, Deployment, LiveStable, OpenRollout};
use crate::state::{Backend, DeployChange, Refused, Service};

/// The backend that a revision is put into.
pub(super) fn candidate<'s>(service: &'s Service, named: Option<&str>) -> Result<&'s Backend, RolloutError> {
    let stable = &service.stable().name;
    if let Some(name) = named {
        let known = || service.backends.iter().map(|backend| backend.name.clone()).collect();
        let found =
            service.backend(name).ok_or_else(|| Refused::NoBackend { name: name.to_owned(), known: known() })?;
        if found.name == *stable {
            return Err(RolloutError::Conflict(format!("{stable} is stable; a release goes into another backend")));
        }
        return Ok(found);
    }
    let others: Vec<_> = service.backends.iter().filter(|backend| backend.name != *stable).collect();
    let idle: Vec<_> = others.iter().filter(|backend| backend.wanted.is_zero()).copied().collect();
    match (&others[..], &idle[..]) {
        (&[only], _) | (_, &[only]) => Ok(only),
        (&[], _) => Err(RolloutError::Conflict(format!(
            "{} has one backend, and a rollout needs two: add one with weight = 0 to proxy.toml",
            service.name()
        ))),
        _ => {
            let names: Vec<_> = others.iter().map(|backend| backend.name.as_str()).collect();
            Err(RolloutError::Invalid(format!("say which backend it goes into, with --backend: {}", names.join(", "))))
        }
    }
}

/// What the beginning of a rollout changes: the revision is in the backend, which gets nothing yet.
pub(super) fn begun(
    service: &Service,
    file: &ServiceConfig,
    record: &Record,
    endpoints: &[EndpointConfig],
    retry: bool,
) -> Result<DeployChange, RolloutError> {
    let config = file.backends.iter().find(|backend| backend.name == record.candidate);
    let Some(config) = config else {
        return Err(RolloutError::Conflict(format!("the file has no backend {} any more", record.candidate)));
    };
    let scheme = config.endpoints.first().map(|endpoint| endpoint.scheme);
    if endpoints.iter().any(|endpoint| Some(endpoint.scheme) != scheme) {
        return Err(RolloutError::Invalid(format!(
            "the endpoints of {} are {} in proxy.toml, and it stays that way: TLS is configured there",
            record.candidate,
            if scheme == Some(Scheme::Https) { "https" } else { "http" }
        )));
    }
    let mut deployment = deployment(service);
    deployment.backends.retain(|deployed| deployed.backend != record.candidate);
    let replaced_endpoints: Vec<String> = config.endpoints.iter().map(ToString::to_string).collect();
    if config.revision != record.revision || replaced_endpoints != record.endpoints {
        deployment.backends.push(Deployed {
            backend: record.candidate.clone(),
            revision: record.revision.clone(),
            endpoints: record.endpoints.clone(),
            replaced_revision: config.revision.clone(),
            replaced_endpoints,
        });
    }
    deployment.rollout =
        Some(OpenRollout { id: record.id, candidate: record.candidate.clone(), cohort: false, mirrored: 0.0 });
    let weights = weights(service, record, Traffic::Shared { percent: 0.0, cohort: false, mirrored: 0.0 });
    let resolved = HashMap::new();
    Ok(DeployChange { deployment, weights, undrain: retry, resolved })
}

/// What is deployed now.
fn deployment(service: &Service) -> Deployment {
    let live = service.deployment.as_deref();
    live.cloned().unwrap_or_else(|| Deployment::none(service.name().clone()))
}

/// All weights of the service, the two sides' adding up to 100 and the others' in proportion.
fn weights(service: &Service, record: &Record, traffic: Traffic) -> Option<Vec<(String, f64)>> {
    let wanted = |name: &BackendName| service.backend(name.as_str()).map(|backend| backend.wanted.value());
    let both = wanted(&record.candidate)? + wanted(&record.stable)?;
    if both <= 0.0 {
        return None;
    }
    let percent = match traffic {
        Traffic::Shared { percent, .. } => percent,
        Traffic::Exchanged => 100.0,
    };
    let weight = |backend: &Backend| match &backend.name {
        name if *name == record.candidate => percent,
        name if *name == record.stable => 100.0 - percent,
        _ => backend.wanted.value() * 100.0 / both,
    };
    Some(service.backends.iter().map(|backend| (backend.name.to_string(), weight(backend))).collect())
}

pub(super) fn is_toward_candidate(before: Traffic, after: Traffic) -> bool {
    let size = |traffic| match traffic {
        Traffic::Shared { percent, cohort, mirrored } => (percent, cohort, mirrored),
        Traffic::Exchanged => (f64::INFINITY, false, 0.0),
    };
    let ((was, was_cohort, was_mirrored), (is, is_cohort, is_mirrored)) = (size(before), size(after));
    is > was || (is_cohort && !was_cohort) || is_mirrored > was_mirrored
}

/// Why a rollout can't go on as it is; `None` when nothing speaks against it.
pub(super) fn overruled(service: &Service, record: &Record) -> Option<String> {
    let Some(sides) = Sides::of(service, record) else {
        return Some("the file has one of its backends no more".to_owned());
    };
    if service.rollout().is_none_or(|open| open.id != record.id) {
        return Some("the file says otherwise".to_owned());
    }
    if service.stable().name != record.stable {
        return Some(format!("{} is stable now", service.stable().name));
    }
    if *sides.candidate.revision != *record.revision {
        return Some(format!("{} runs {:?} now, by the file", record.candidate, sides.candidate.revision));
    }
    let Traffic::Shared { percent, .. } = record.state.traffic(&record.plan) else { return None };
    let (ours, theirs) = (sides.candidate.wanted.value(), sides.stable.wanted.value());
    if (ours / (ours + theirs) * 100.0 - percent).abs() > 1e-6 {
        return Some("the file's weights have changed".to_owned());
    }
    let drained = sides.candidate.drain.as_ref().and_then(|drain| drain.by.as_ref());
    drained.map(|person| format!("{person} has drained {}", record.candidate))
}

/// What requests are to see of a rollout. `overruled`: where the file's weights are in force, they stay.
pub(super) fn change(
    service: &Service,
    record: &Record,
    file_stable: Option<BackendName>,
    overruled: bool,
) -> DeployChange {
    let traffic = record.state.traffic(&record.plan);
    let mut deployment = deployment(service);
    deployment.rollout = match traffic {
        _ if record.state.is_over() => None,
        Traffic::Shared { cohort, mirrored, .. } => {
            Some(OpenRollout { id: record.id, candidate: record.candidate.clone(), cohort, mirrored })
        }
        Traffic::Exchanged => None,
    };
    let was_exchanged = service.stable().name == record.candidate;
    if traffic == Traffic::Exchanged || (was_exchanged && !overruled) {
        let now = if traffic == Traffic::Exchanged { &record.candidate } else { &record.stable };
        deployment.stable =
            file_stable.filter(|file| file != now).map(|replaced| LiveStable { backend: now.clone(), replaced });
    }
    let weights = weights(service, record, traffic).filter(|_| !overruled || service.overridden);
    DeployChange { deployment, weights, undrain: false, resolved: HashMap::new() }
}
