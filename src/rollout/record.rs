//! What is written down of a rollout: enough to go on after a restart, and to tell of it for ever after.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::baseline::Baseline;
use super::evidence::Count;
use super::machine::{Outcome, State};
use crate::journal::RolloutMemory;
use crate::model::{BackendName, Plan, ServiceName};

/// Version of this shape. One that is higher was written by a newer tidegate.
pub(super) const SCHEMA: u32 = 1;

/// One rollout, under way or over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) schema: u32,
    pub service: ServiceName,
    /// From 1, by service.
    pub id: u64,
    /// Grows with each change, over all rollouts of the service.
    pub version: u64,
    pub candidate: BackendName,
    /// What it is compared with, and goes back to.
    pub stable: BackendName,
    pub revision: String,
    pub endpoints: Vec<String>,
    /// What stable runs: nothing else is good to go back to.
    pub stable_revision: String,
    pub about: About,
    /// Who began it.
    pub by: String,
    /// As it was when it began, whatever the file says since.
    pub plan: Plan,
    pub state: State,
    /// How often stable failed before.
    pub usual: Count,
    pub began_ms: u64,
    /// `None` after the end, too, as long as requests are under way that count.
    pub ended_ms: Option<u64>,
    pub steps: Vec<StepTaken>,
    pub receipt: Receipt,
    /// Who has said that it goes on in a freeze as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze_override: Option<FreezeOverride>,
    /// Where the plan's baseline listens, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
}

/// Somebody's word that a freeze isn't meant for this rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreezeOverride {
    pub by: String,
    pub why: String,
}

/// What whoever deploys says of a revision.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

/// When a step began, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StepTaken {
    /// From 0.
    pub step: usize,
    pub at_ms: u64,
    pub by: String,
    pub reason: String,
}

/// What it has cost so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Requests that the candidate has taken.
    pub requests: u64,
    /// Of those, that failed there.
    pub failures: u64,
    /// Of those, answered by stable in its place.
    pub rescued: u64,
    /// And seen by clients.
    pub seen_by_clients: u64,
    /// On a sticky service: clients that it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<u64>,
    /// RFC 3339: the first request that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<String>,
    /// From then until nothing went to the candidate any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_after_ms: Option<u64>,
}

impl Receipt {
    /// With what came since.
    #[must_use]
    pub fn plus(&self, more: &Self) -> Self {
        Self {
            requests: self.requests + more.requests,
            failures: self.failures + more.failures,
            rescued: self.rescued + more.rescued,
            seen_by_clients: self.seen_by_clients + more.seen_by_clients,
            clients: self.clients.max(more.clients),
            first_failure: self.first_failure.clone().or_else(|| more.first_failure.clone()),
            restored_after_ms: self.restored_after_ms.or(more.restored_after_ms),
        }
    }
}

impl Record {
    /// As the journal had it; `None` when it can't be read.
    pub(super) fn remembered(memory: RolloutMemory) -> Option<Self> {
        serde_json::from_value::<Self>(memory.record).ok().filter(|record| record.schema <= SCHEMA)
    }

    /// For the journal.
    pub(super) fn memory(&self) -> RolloutMemory {
        let record = serde_json::to_value(self).unwrap_or_default();
        RolloutMemory { service: self.service.clone(), id: self.id, record }
    }

    /// It is over, and not all of it is counted yet.
    pub(super) fn is_settling(&self) -> bool {
        self.state.is_over() && self.ended_ms.is_none()
    }

    /// It was found bad, so that nobody wants it again by mistake.
    pub(super) fn was_rejected(&self) -> bool {
        self.state.outcome() == Some(Outcome::RolledBack)
    }
}

pub(super) fn unix_ms(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// RFC 3339, UTC, to the millisecond.
pub(super) fn told(at_ms: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at_ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Strategy;

    fn record() -> Record {
        Record {
            schema: SCHEMA,
            service: "shop".parse().unwrap(),
            id: 3,
            version: 17,
            candidate: "green".parse().unwrap(),
            stable: "blue".parse().unwrap(),
            revision: "sha256:1".into(),
            endpoints: vec!["http://127.0.0.1:9001".into()],
            stable_revision: "sha256:0".into(),
            about: About { commit: Some("4f2a".into()), ..About::default() },
            by: "ada".into(),
            plan: Plan::usual(Strategy::Canary),
            state: State::begun(),
            usual: Count { requests: 10, failures: 1 },
            began_ms: unix_ms(SystemTime::now()),
            ended_ms: None,
            steps: Vec::new(),
            receipt: Receipt::default(),
            freeze_override: None,
            baseline: None,
        }
    }

    #[test]
    fn a_record_is_read_back_as_it_was_and_one_of_a_newer_version_is_not() {
        let record = record();
        assert_eq!(Record::remembered(record.memory()), Some(record.clone()));
        let mut newer = record.memory();
        newer.record["schema"] = (SCHEMA + 1).into();
        assert_eq!(Record::remembered(newer), None);
        let mut broken = record.memory();
        broken.record["plan"] = "none".into();
        assert_eq!(Record::remembered(broken), None);
    }
}
