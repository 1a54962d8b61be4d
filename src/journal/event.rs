//! One line of history.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{BackendName, Deployment, Drain, GuardMode, LiveMirror, LiveWeights, OpenRoll, ServiceName};

/// Backends and their weights, as events tell them.
type WeightsTold = BTreeMap<String, f64>;

/// Something that happened, about to be written down.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(Deserialize))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fact {
    /// The process began.
    Started {
        version: String,
        config: String,
        pid: u32,
    },
    /// The process ended in order.
    Stopped,
    /// A new file is in force.
    Reloaded {
        warnings: Vec<String>,
    },
    /// A new file has problems; the old one stays in force.
    ReloadRefused {
        problems: String,
    },
    /// Somebody changed the weights of a service.
    WeightsChanged {
        service: String,
        from: WeightsTold,
        to: WeightsTold,
    },
    /// Somebody put a service's weights back to the file's.
    WeightsReset {
        service: String,
        from: WeightsTold,
        to: WeightsTold,
    },
    /// Live weights ended, because the file's own changed.
    OverrideEnded {
        service: String,
        from: WeightsTold,
        to: WeightsTold,
    },
    /// An endpoint gets no requests while others can have them.
    EndpointDown {
        service: String,
        backend: String,
        endpoint: String,
        reason: String,
    },
    /// It gets requests again.
    EndpointUp {
        service: String,
        backend: String,
        endpoint: String,
        reason: String,
    },
    /// A backend gets no new requests: the guard found it guilty, or a person says so.
    Drained {
        service: String,
        backend: String,
        revision: String,
        reason: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        evidence: Option<Value>,
    },
    /// A person wants an endpoint to get nothing, until the process ends.
    EndpointDrained {
        service: String,
        backend: String,
        endpoint: String,
    },
    EndpointUndrained {
        service: String,
        backend: String,
        endpoint: String,
    },
    /// A backend stands still: it gets nothing for a while.
    Suspended {
        service: String,
        backend: String,
        revision: String,
        reason: String,
        for_ms: u64,
        evidence: Value,
    },
    /// It gets requests again.
    Resumed {
        service: String,
        backend: String,
        revision: String,
    },
    /// The guard would have drained a backend, if it were allowed to.
    WouldDrain {
        service: String,
        backend: String,
        revision: String,
        reason: String,
        evidence: Value,
    },
    /// A backend gets what its weight says again.
    Undrained {
        service: String,
        backend: String,
        revision: String,
        reason: String,
    },
    /// A drained backend gets a few requests to prove itself.
    ProbationBegan {
        service: String,
        backend: String,
        revision: String,
        share: f64,
    },
    /// Stable fails more often than a candidate: nothing is sent to it in the candidate's place.
    StableAlarm {
        service: String,
        backend: String,
        stable: String,
        evidence: Value,
    },
    /// Stable is no worse than its candidates any more.
    StableAlarmEnded {
        service: String,
        stable: String,
    },
    /// A new revision was put into a backend, and a rollout began.
    RolloutBegan {
        service: String,
        rollout: u64,
        backend: String,
        revision: String,
        stable: String,
        strategy: String,
        /// A fresh copy of stable, to be compared with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        baseline: Option<String>,
    },
    /// A rollout goes on though releases are frozen.
    FreezeOverridden {
        service: String,
        rollout: u64,
        window: String,
        why: String,
    },
    /// A rollout goes on to its next step.
    RolloutAdvanced {
        service: String,
        rollout: u64,
        backend: String,
        revision: String,
        /// From 1.
        step: usize,
        steps: usize,
        /// What the step is.
        what: String,
        reason: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        evidence: Option<Value>,
    },
    /// A rollout waits for a person.
    RolloutPaused {
        service: String,
        rollout: u64,
        backend: String,
        revision: String,
        reason: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        evidence: Option<Value>,
    },
    RolloutResumed {
        service: String,
        rollout: u64,
        backend: String,
        revision: String,
    },
    /// A step was approved.
    RolloutApproved {
        service: String,
        rollout: u64,
        backend: String,
        revision: String,
        /// From 1.
        step: usize,
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// A rollout is taken back: nothing goes to its candidate any more. Its end is told once what is under way there has
    /// ended.
    RolloutEnding {
        service: String,
        rollout: u64,
        backend: String,
        revision: String,
        outcome: String,
        reason: String,
    },
    /// A rollout is over: completed, rolled back, aborted or failed.
    RolloutEnded {
        service: String,
        rollout: u64,
        backend: String,
        revision: String,
        outcome: String,
        reason: String,
        /// What stable ran when it began.
        stable_revision: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        commit: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        commit_time: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        author: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        link: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        evidence: Option<Value>,
        receipt: Value,
    },
    /// What was deployed live has ended, or a part of it, because the file says something else, or a person the file's
    /// word again.
    DeploymentEnded {
        service: String,
        /// What ran in the backends by it.
        backends: BTreeMap<String, String>,
    },
    /// Somebody changed what the guard may do, everywhere.
    GuardChanged {
        from: String,
        to: String,
    },
    /// It is known whether what runs behind a mirror answers as stable does; or what was known has changed.
    ShadowVerdict {
        service: String,
        backend: String,
        revision: String,
        verdict: String,
        was: String,
        reason: String,
        evidence: Value,
    },
    /// Somebody has the comparisons of a service's mirrors begin anew.
    ShadowReset {
        service: String,
        comparisons: u64,
    },
    /// Somebody changed how much of a service is mirrored to a backend, in percent.
    MirrorChanged {
        service: String,
        backend: String,
        from: f64,
        to: f64,
    },
    /// A live share of a mirror ended, because the file's own changed, or the mirror is gone.
    MirrorEnded {
        service: String,
        backend: String,
        percent: f64,
    },
    /// Somebody changes what runs at a backend's endpoints, one after another.
    RollBegan {
        service: String,
        roll: u64,
        backend: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        revision: Option<String>,
        endpoints: usize,
    },
    /// These get nothing meanwhile.
    RollTookOut {
        service: String,
        roll: u64,
        backend: String,
        endpoints: Vec<String>,
    },
    /// These get requests again.
    RollPutBack {
        service: String,
        roll: u64,
        backend: String,
        endpoints: Vec<String>,
    },
    /// All are back: completed, stopped, or lost.
    RollEnded {
        service: String,
        roll: u64,
        backend: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        revision: Option<String>,
        outcome: String,
        reason: String,
    },
    /// What runs behind a service was changed under a hold, or not.
    Swapped {
        service: String,
        /// Whose revision it is.
        #[serde(skip_serializing_if = "Option::is_none")]
        backend: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        revision: Option<String>,
        outcome: String,
        reason: String,
    },
    /// A sink will never hear of some events.
    NotifySkipped {
        sink: String,
        events: u64,
        /// The first and the last of them, by id.
        first: u64,
        last: u64,
        reason: String,
    },
    /// Somebody has a service's new requests wait: at most so long, at most so many.
    Held {
        service: String,
        seconds: f64,
        requests: u64,
    },
    /// A hold is over: how many waited, gave up before, and found no room.
    Released {
        service: String,
        waited: u64,
        gave_up: u64,
        refused: u64,
    },
}

impl Fact {
    /// The service it is about.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        match self {
            Self::Started { .. }
            | Self::Stopped
            | Self::Reloaded { .. }
            | Self::ReloadRefused { .. }
            | Self::NotifySkipped { .. }
            | Self::GuardChanged { .. } => None,
            Self::WeightsChanged { service, .. }
            | Self::WeightsReset { service, .. }
            | Self::OverrideEnded { service, .. }
            | Self::EndpointDown { service, .. }
            | Self::EndpointUp { service, .. }
            | Self::Drained { service, .. }
            | Self::EndpointDrained { service, .. }
            | Self::EndpointUndrained { service, .. }
            | Self::Suspended { service, .. }
            | Self::Resumed { service, .. }
            | Self::WouldDrain { service, .. }
            | Self::Undrained { service, .. }
            | Self::ProbationBegan { service, .. }
            | Self::StableAlarm { service, .. }
            | Self::StableAlarmEnded { service, .. }
            | Self::ShadowVerdict { service, .. }
            | Self::ShadowReset { service, .. }
            | Self::MirrorChanged { service, .. }
            | Self::MirrorEnded { service, .. }
            | Self::RolloutBegan { service, .. }
            | Self::FreezeOverridden { service, .. }
            | Self::RolloutAdvanced { service, .. }
            | Self::RolloutPaused { service, .. }
            | Self::RolloutResumed { service, .. }
            | Self::RolloutApproved { service, .. }
            | Self::RolloutEnding { service, .. }
            | Self::RolloutEnded { service, .. }
            | Self::DeploymentEnded { service, .. }
            | Self::RollBegan { service, .. }
            | Self::RollTookOut { service, .. }
            | Self::RollPutBack { service, .. }
            | Self::RollEnded { service, .. }
            | Self::Swapped { service, .. }
            | Self::Held { service, .. }
            | Self::Released { service, .. } => Some(service),
        }
    }
}

/// An event as it is read back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one or more with each event; never used twice.
    pub id: u64,
    /// RFC 3339, UTC, to the millisecond.
    pub at: String,
    /// Who or what decided.
    pub by: String,
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// What the kind of event tells: an object.
    pub detail: Value,
}

/// What an entry does to what must hold after a restart.
#[derive(Debug, Clone, PartialEq)]
pub enum Lasting {
    SetWeights(LiveWeights),
    EndWeights(ServiceName),
    SetDrain(Drain),
    EndDrain(ServiceName, BackendName),
    /// What the guard may do, whatever the file says; `None`: what the file says.
    SetGuard(Option<GuardMode>),
    SetMirror(LiveMirror),
    EndMirror(ServiceName, BackendName),
    /// What was deployed live into a service.
    SetDeployment(Deployment),
    EndDeployment(ServiceName),
    /// How a rollout stands.
    SetRollout(RolloutMemory),
    /// How a roll stands.
    SetRoll(OpenRoll),
    EndRoll(ServiceName, BackendName),
}

/// A rollout, under way or over, as it was last written down.
#[derive(Debug, Clone, PartialEq)]
pub struct RolloutMemory {
    pub service: ServiceName,
    /// From 1, by service.
    pub id: u64,
    /// What whoever carries it out wants to know of it: an object.
    pub record: Value,
}

/// What is remembered of the trial of one backend's revision, so that a restart doesn't give the judge another stake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialMemory {
    pub service: ServiceName,
    pub backend: BackendName,
    pub revision: String,
    /// Failures counted, of both sides, by kind.
    pub failures: [u64; 4],
}

/// What is remembered of comparing one mirror's answers with its primary's.
#[derive(Debug, Clone, PartialEq)]
pub struct ShadowMemory {
    pub service: ServiceName,
    pub backend: BackendName,
    /// What whoever compares wants to know of it: an object.
    pub memory: Value,
}

/// How often the guard has drained a revision, also where it has been undrained since: each return has less to spend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastDrains {
    pub service: ServiceName,
    pub backend: BackendName,
    pub revision: String,
    pub times: u32,
}

/// An event and what it changes, written in one transaction.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub at: SystemTime,
    pub by: String,
    pub fact: Fact,
    /// All of them, or none.
    pub changes: Vec<Lasting>,
}

impl Entry {
    /// Something that happens now.
    #[must_use]
    pub fn now(by: impl Into<String>, fact: Fact) -> Self {
        Self { at: SystemTime::now(), by: by.into(), fact, changes: Vec::new() }
    }

    #[must_use]
    pub fn with(mut self, change: Lasting) -> Self {
        self.changes.push(change);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EVENT_KINDS;

    #[test]
    fn every_kind_of_event_is_known_by_name() {
        let none = serde_json::from_value::<Fact>(serde_json::json!({ "kind": "?" })).unwrap_err().to_string();
        let mut said: Vec<&str> = none.split('`').skip(3).step_by(2).collect();
        let mut known = EVENT_KINDS.to_vec();
        said.sort_unstable();
        known.sort_unstable();
        assert_eq!(said, known, "{none}");
    }
}
