//! What the history is told of a rollout.

use std::time::SystemTime;

use super::evidence::Evidence;
use super::machine::{Decision, Outcome};
use super::record::{Record, unix_ms};
use super::sight::{Sides, Sight};
use crate::journal::Fact;
use crate::model::parse_timestamp;

/// What is known at the moment of the end. What the candidate has still under way then counts as well, where it was
/// taken back: the end is told later.
pub(super) fn end(record: &mut Record, sight: Option<(Sides<'_>, &Sight)>, evidence: Option<&serde_json::Value>) {
    let now_ms = unix_ms(SystemTime::now());
    let receipt = sight.map(|(sides, sight)| sight.receipt(sides.candidate)).unwrap_or_default();
    // The guard knows of the first failure before anybody has looked.
    let first = || Some(evidence?["first"]["at"].as_str()?.to_owned());
    let first = record.receipt.first_failure.take().or_else(|| receipt.first_failure.clone()).or_else(first);
    if record.state.outcome() == Some(Outcome::RolledBack) {
        let first_ms = first.as_deref().and_then(parse_timestamp).map(unix_ms);
        record.receipt.restored_after_ms = first_ms.map(|first_ms| now_ms.saturating_sub(first_ms));
    }
    record.receipt.first_failure = first;
    if !(sight.is_some() && is_taken_back(record)) {
        record.receipt = record.receipt.plus(&receipt);
        record.ended_ms = Some(now_ms);
    }
}

fn is_taken_back(record: &Record) -> bool {
    matches!(record.state.outcome(), Some(Outcome::RolledBack | Outcome::Aborted))
}

/// What is told once all is counted.
pub(super) fn ended(record: &Record, outcome: Outcome, reason: String, evidence: Option<serde_json::Value>) -> Fact {
    Fact::RolloutEnded {
        service: record.service.to_string(),
        rollout: record.id,
        backend: record.candidate.to_string(),
        revision: record.revision.clone(),
        outcome: outcome.name().to_owned(),
        reason,
        stable_revision: record.stable_revision.clone(),
        commit: record.about.commit.clone(),
        commit_time: record.about.commit_time.clone(),
        author: record.about.author.clone(),
        link: record.about.link.clone(),
        evidence,
        receipt: serde_json::to_value(&record.receipt).unwrap_or_default(),
    }
}

/// What a decision rests on, for the history.
pub(super) fn shown(record: &Record, evidence: &Evidence) -> serde_json::Value {
    let gates = evidence.gates.iter().map(|(kind, name, standing)| {
        serde_json::json!({
            "kind": kind.name(),
            "name": name,
            "standing": standing.name(),
            "reason": standing.reason(),
        })
    });
    let mut shown = serde_json::json!({
        "requests": evidence.step.requests,
        "failures": evidence.step.failures,
        "compared_with": record.reference(),
        "candidate": evidence.candidate,
        "stable": evidence.stable,
        "against": evidence.against(record.plan.margin),
    });
    if let Some(baseline) = evidence.baseline {
        shown["baseline"] = serde_json::json!(baseline);
    }
    if !evidence.gates.is_empty() {
        shown["gates"] = gates.collect();
    }
    shown
}

pub(super) fn fact(record: &Record, decision: Decision, evidence: Option<serde_json::Value>) -> Fact {
    let (service, rollout) = (record.service.to_string(), record.id);
    let (backend, revision) = (record.candidate.to_string(), record.revision.clone());
    match decision {
        Decision::Advanced { step, reason } => Fact::RolloutAdvanced {
            service,
            rollout,
            backend,
            revision,
            step: step + 1,
            steps: record.plan.steps.len(),
            what: record.plan.steps.get(step).map(ToString::to_string).unwrap_or_default(),
            reason,
            evidence,
        },
        Decision::Paused { reason } => Fact::RolloutPaused { service, rollout, backend, revision, reason, evidence },
        Decision::Resumed => Fact::RolloutResumed { service, rollout, backend, revision },
        Decision::Approved { step } => {
            let why = evidence.and_then(|said| said["reason"].as_str().map(str::to_owned));
            Fact::RolloutApproved { service, rollout, backend, revision, step: step + 1, why }
        }
        Decision::Ended { outcome, reason } if record.is_settling() => {
            Fact::RolloutEnding { service, rollout, backend, revision, outcome: outcome.name().to_owned(), reason }
        }
        Decision::Ended { outcome, reason } => ended(record, outcome, reason, evidence),
    }
}
