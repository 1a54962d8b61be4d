//! What is told of a rollout: by the API, the history and the command line.

use serde::{Deserialize, Serialize};

use super::baseline::limit;
use super::evidence::{Evidence, Likeness, Proof};
use super::machine::{Phase, Traffic};
use super::record::{About, FreezeOverride, Receipt, Record, told};
use crate::model::{Gate, Step, Strategy};

/// What a rollout is asked to bring.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployBody {
    pub revision: String,
    pub endpoints: Vec<String>,
    /// Where the fresh copy of stable listens that it is compared with; where the file says when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub baseline_endpoints: Vec<String>,
    /// Where it is put; the one that isn't stable when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Another way than the service's own: its usual steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// Though the revision was rolled back before.
    #[serde(default)]
    pub retry: bool,
    /// Though releases are frozen: why, for the history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub override_freeze: Option<String>,
}

/// What goes with a person's word.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WordBody {
    /// Why, for the history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of `promote`: to the end.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
    /// Of `promote` and `approve`: though releases are frozen; why, for the history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub override_freeze: Option<String>,
}

/// The rollouts of a service, the latest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RolloutsView {
    pub rollouts: Vec<RolloutView>,
}

/// One rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolloutView {
    pub id: u64,
    /// Grows with each change; the ETag that `If-Match` takes.
    pub version: u64,
    pub service: String,
    /// Where the revision was put.
    pub backend: String,
    /// What it goes back to, and is compared with where it has no baseline.
    pub stable: String,
    pub revision: String,
    pub endpoints: Vec<String>,
    #[serde(flatten)]
    pub about: About,
    pub by: String,
    pub strategy: String,
    /// "starting", "under way", "paused", "completed", "rolled back", "aborted" or "failed".
    pub state: String,
    /// Why it is paused, or over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// From 1; absent before the first and after the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<usize>,
    /// All of the plan, in words.
    pub plan: Vec<String>,
    /// The candidate's percent of what it shares with stable.
    pub percent: f64,
    pub began: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    pub steps: Vec<StepView>,
    /// How far the present step has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressView>,
    pub receipt: Receipt,
    /// Who has said that it goes on in a freeze as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze_override: Option<FreezeOverride>,
    /// A fresh copy of stable, to be compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<BaselineView>,
}

/// A rollout's baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BaselineView {
    pub backend: String,
    pub endpoints: Vec<String>,
    /// As much as the candidate has, or 0: then that is compared with stable.
    pub percent: f64,
}

/// A step that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepView {
    /// From 1.
    pub step: usize,
    pub at: String,
    pub by: String,
    pub reason: String,
}

/// How far a step has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProgressView {
    /// Of the candidate, since the step began.
    pub requests: u64,
    pub failures: u64,
    pub seconds: f64,
    /// The backend that the candidate is compared with: stable, or the baseline.
    pub compared_with: String,
    /// What is missing, in a line.
    pub missing: String,
    /// About how many more requests it takes, and how long those take at the present rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_needed: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_needed: Option<f64>,
    /// Evidence against the candidate: 1 when there is none; rolled back at `limit`.
    pub against: f64,
    pub limit: f64,
    /// Who has been asked at this step, and what was said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<GateView>,
}

/// A gate that has been asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateView {
    /// "smoke", "webhook" or "metric".
    pub kind: String,
    pub name: String,
    /// "pending", "passed", "refused" or "silent".
    pub standing: String,
    pub reason: String,
}

impl RolloutView {
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ended.is_some()
    }

    pub(super) fn new(record: &Record, receipt: Receipt, progress: Option<ProgressView>) -> Self {
        let (state, reason) = match &record.state.phase {
            Phase::Starting => ("starting", None),
            Phase::At { .. } | Phase::Approved { .. } => ("under way", None),
            Phase::Paused { reason, .. } => ("paused", Some(reason.clone())),
            Phase::Ended { outcome, reason } => (outcome.name(), Some(reason.clone())),
        };
        let percent = match record.state.traffic(&record.plan) {
            Traffic::Shared { percent, .. } => percent,
            Traffic::Exchanged => 100.0,
        };
        let steps = record.steps.iter().map(|taken| StepView {
            step: taken.step + 1,
            at: told(taken.at_ms),
            by: taken.by.clone(),
            reason: taken.reason.clone(),
        });
        Self {
            id: record.id,
            version: record.version,
            service: record.service.to_string(),
            backend: record.candidate.to_string(),
            stable: record.stable.to_string(),
            revision: record.revision.clone(),
            endpoints: record.endpoints.clone(),
            about: record.about.clone(),
            by: record.by.clone(),
            strategy: record.plan.strategy.name().to_owned(),
            state: state.to_owned(),
            reason,
            step: record.state.step().map(|step| step + 1),
            plan: record.plan.steps.iter().map(ToString::to_string).collect(),
            percent,
            began: told(record.began_ms),
            ended: record.ended_ms.map(told),
            steps: steps.collect(),
            progress,
            receipt,
            freeze_override: record.freeze_override.clone(),
            baseline: record.plan.baseline.as_ref().zip(record.baseline.as_ref()).map(|(name, baseline)| {
                BaselineView {
                    backend: name.to_string(),
                    endpoints: baseline.endpoints.clone(),
                    percent: record.state.traffic(&record.plan).baseline(),
                }
            }),
        }
    }
}

impl ProgressView {
    /// Of a step that has lasted so long.
    pub(super) fn new(record: &Record, evidence: &Evidence, seconds: f64) -> Self {
        let plan = &record.plan;
        let until = |time: std::time::Duration| {
            let left = time.as_secs_f64() - seconds;
            if left > 0.0 {
                (format!("{left:.0} s of {:.0} s are left", time.as_secs_f64()), Some(left))
            } else {
                (String::new(), None)
            }
        };
        let (mut missing, mut requests_needed, mut seconds_needed) = (String::new(), None, None);
        match record.state.step().and_then(|step| plan.steps.get(step)) {
            None if evidence.ready => {}
            None => "its endpoints can't all be reached yet".clone_into(&mut missing),
            Some(Step::Approve { .. }) if record.state.is_at_approved() => {}
            Some(Step::Approve { who }) => missing = format!("approval by {who}: tidegate approve {}", record.service),
            Some(Step::Mirror { time, .. }) => {
                if let Likeness::Unknown(reason) = &evidence.likeness {
                    missing = format!("not known yet whether copies are answered the same: {reason}");
                }
                seconds_needed = until(*time).1;
            }
            Some(Step::Cohort { hold: time } | Step::Flip { watch: time, .. }) => {
                (missing, seconds_needed) = until(*time);
            }
            Some(Step::Weight { hold: Some(hold), advance_below: None, .. }) => {
                (missing, seconds_needed) = until(*hold);
            }
            Some(Step::Weight { advance_below, hold, .. }) => {
                if let Proof::Missing { reason, requests } = evidence.proof(*advance_below, plan.confidence) {
                    let rate = evidence.step.requests as f64 / seconds.max(0.1);
                    missing = reason;
                    requests_needed = requests;
                    seconds_needed = requests.filter(|_| rate > 0.0).map(|requests| requests as f64 / rate);
                }
                if let Some(left) = hold.and_then(|hold| until(hold).1) {
                    seconds_needed = Some(seconds_needed.map_or(left, |needed| needed.min(left)));
                }
            }
        }
        let is_judged = record.state.step().is_some() && !record.state.is_at_approved();
        if missing.is_empty()
            && is_judged
            && let Err(reason) = evidence.is_harmless(plan)
        {
            missing = reason;
        }
        let waits = held_up(record, evidence);
        if !waits.is_empty() {
            missing = if missing.is_empty() { waits } else { format!("{missing}; {waits}") };
        }
        let gates = evidence.gates.iter().map(|(kind, name, standing)| GateView {
            kind: kind.name().to_owned(),
            name: name.clone(),
            standing: standing.name().to_owned(),
            reason: standing.reason().to_owned(),
        });
        Self {
            gates: gates.collect(),
            requests: evidence.step.requests,
            failures: evidence.step.failures,
            seconds,
            compared_with: record.reference().to_string(),
            missing,
            requests_needed,
            seconds_needed,
            against: evidence.against(plan.margin),
            limit: limit(plan),
        }
    }
}

/// Who or what else is waited for, as far as somebody has been asked.
fn held_up(record: &Record, evidence: &Evidence) -> String {
    let asked = |gate: &&Gate| evidence.gates.iter().any(|(kind, name, _)| *kind == gate.kind && *name == gate.name);
    let gates = record.plan.gates_after(record.state.step()).filter(asked).filter_map(|gate| {
        let standing = evidence.standing(gate);
        (!standing.is_passed()).then(|| format!("{gate}: {}", standing.reason()))
    });
    let is_open = !record.state.is_over() && !matches!(record.state.phase, Phase::Paused { .. });
    let frozen = evidence.frozen.iter().filter(|_| is_open).cloned();
    frozen.chain(gates).collect::<Vec<_>>().join("; ")
}
