//! What a rollout changes of its service, and whether the service is still as the rollout left it.

use std::collections::HashMap;

use super::error::RolloutError;
use super::machine::Traffic;
use super::record::Record;
use super::sight::Sides;
use crate::config::{Scheme, ServiceConfig};
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
    let baseline = service.config.rollout.plan.baseline.as_ref();
    let is_other = |backend: &&Backend| backend.name != *stable && Some(&backend.name) != baseline;
    let others: Vec<_> = service.backends.iter().filter(is_other).collect();
    let idle: Vec<_> = others.iter().filter(|backend| backend.wanted.is_zero()).copied().collect();
    match (&others[..], &idle[..]) {
        (&[only], _) | (_, &[only]) => Ok(only),
        (&[], _) => Err(RolloutError::Conflict(format!(
            "{} has no backend for a new release: add one with weight = 0 to proxy.toml",
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
    retry: bool,
) -> Result<DeployChange, RolloutError> {
    let mut deployment = deployment(service);
    put(&mut deployment, file, &record.candidate, &record.revision, &record.endpoints)?;
    let mut undrain: Vec<_> = Some(record.candidate.clone()).filter(|_| retry).into_iter().collect();
    if let (Some(name), Some(baseline)) = (&record.plan.baseline, &record.baseline) {
        put(&mut deployment, file, name, &record.stable_revision, &baseline.endpoints)?;
        // Whatever the copy before it has done.
        undrain.extend(
            service.backend(name.as_str()).filter(|known| known.drain.is_some()).map(|known| known.name.clone()),
        );
    }
    let traffic = record.state.traffic(&record.plan);
    deployment.rollout = open(record, traffic);
    let weights = weights(service, record, traffic);
    Ok(DeployChange { deployment, weights, undrain, resolved: HashMap::new() })
}

/// Puts a revision into a backend.
fn put(
    deployment: &mut Deployment,
    file: &ServiceConfig,
    backend: &BackendName,
    revision: &str,
    endpoints: &[String],
) -> Result<(), RolloutError> {
    let Some(config) = file.backends.iter().find(|config| config.name == *backend) else {
        return Err(RolloutError::Conflict(format!("the file has no backend {backend} any more")));
    };
    let scheme = config.endpoints.first().map_or(Scheme::Http, |endpoint| endpoint.scheme);
    let (is, isnt) = if scheme == Scheme::Https { ("https", "http://") } else { ("http", "https://") };
    if endpoints.iter().any(|endpoint| endpoint.starts_with(isnt)) {
        return Err(RolloutError::Invalid(format!(
            "the endpoints of {backend} are {is} in proxy.toml, and it stays that way: TLS is configured there"
        )));
    }
    deployment.backends.retain(|deployed| deployed.backend != *backend);
    let replaced_endpoints: Vec<String> = config.endpoints.iter().map(ToString::to_string).collect();
    if config.revision != revision || replaced_endpoints != endpoints {
        deployment.backends.push(Deployed {
            backend: backend.clone(),
            revision: revision.to_owned(),
            endpoints: endpoints.to_vec(),
            replaced_revision: config.revision.clone(),
            replaced_endpoints,
        });
    }
    Ok(())
}

/// What the service is to know of a rollout that goes on; `None`: it doesn't.
fn open(record: &Record, traffic: Traffic) -> Option<OpenRollout> {
    let Traffic::Shared { baseline, cohort, mirrored, .. } = traffic else { return None };
    if record.state.is_over() {
        return None;
    }
    let baseline = record.plan.baseline.clone().filter(|_| baseline > 0.0);
    Some(OpenRollout { id: record.id, candidate: record.candidate.clone(), cohort, mirrored, baseline })
}

/// What is deployed now.
fn deployment(service: &Service) -> Deployment {
    let live = service.deployment.as_deref();
    live.cloned().unwrap_or_else(|| Deployment::none(service.name().clone()))
}

/// All weights of the service: those of the two sides and the baseline add up to 100, the others' are in proportion.
fn weights(service: &Service, record: &Record, traffic: Traffic) -> Option<Vec<(String, f64)>> {
    let wanted = |name: &BackendName| service.backend(name.as_str()).map(|backend| backend.wanted.value());
    let beside = record.plan.baseline.as_ref().and_then(wanted).unwrap_or(0.0);
    let shared = wanted(&record.candidate)? + wanted(&record.stable)? + beside;
    if shared <= 0.0 {
        return None;
    }
    let (percent, baseline) = match traffic {
        Traffic::Shared { percent, baseline, .. } => (percent, baseline),
        Traffic::Exchanged => (100.0, 0.0),
    };
    let weight = |backend: &Backend| match &backend.name {
        name if *name == record.candidate => percent,
        name if *name == record.stable => 100.0 - percent - baseline,
        name if Some(name) == record.plan.baseline.as_ref() => baseline,
        _ => backend.wanted.value() * 100.0 / shared,
    };
    Some(service.backends.iter().map(|backend| (backend.name.to_string(), weight(backend))).collect())
}

pub(super) fn is_toward_candidate(before: Traffic, after: Traffic) -> bool {
    let size = |traffic| match traffic {
        Traffic::Shared { percent, cohort, mirrored, .. } => (percent, cohort, mirrored),
        Traffic::Exchanged => (f64::INFINITY, false, 0.0),
    };
    let ((was, was_cohort, was_mirrored), (is, is_cohort, is_mirrored)) = (size(before), size(after));
    is > was || (is_cohort && !was_cohort) || is_mirrored > was_mirrored || after.baseline() > before.baseline()
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
    let Traffic::Shared { percent, baseline, .. } = record.state.traffic(&record.plan) else { return None };
    let (ours, theirs) = (sides.candidate.wanted.value(), sides.stable.wanted.value());
    let beside = sides.baseline.map_or(0.0, |backend| backend.wanted.value());
    let isnt = |weight: f64, percent: f64| (weight / (ours + theirs + beside) * 100.0 - percent).abs() > 1e-6;
    if isnt(ours, percent) || isnt(beside, baseline) {
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
    deployment.rollout = open(record, traffic);
    let was_exchanged = service.stable().name == record.candidate;
    if traffic == Traffic::Exchanged || (was_exchanged && !overruled) {
        let now = if traffic == Traffic::Exchanged { &record.candidate } else { &record.stable };
        deployment.stable =
            file_stable.filter(|file| file != now).map(|replaced| LiveStable { backend: now.clone(), replaced });
    }
    let weights = weights(service, record, traffic).filter(|_| !overruled || service.overridden);
    DeployChange { deployment, weights, undrain: Vec::new(), resolved: HashMap::new() }
}
