//! One line of history.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{BackendName, Drain, GuardMode, LiveWeights, ServiceName};

/// Backends and their weights, as events tell them.
type WeightsTold = BTreeMap<String, f64>;

/// Something that happened, about to be written down.
#[derive(Debug, Clone, PartialEq, Serialize)]
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
    /// Somebody changed what the guard may do, everywhere.
    GuardChanged {
        from: String,
        to: String,
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
    pub change: Option<Lasting>,
}

impl Entry {
    /// Something that happens now.
    #[must_use]
    pub fn now(by: impl Into<String>, fact: Fact) -> Self {
        Self { at: SystemTime::now(), by: by.into(), fact, change: None }
    }

    #[must_use]
    pub fn with(mut self, change: Lasting) -> Self {
        self.change = Some(change);
        self
    }
}
