//! What the guard may do, and what it or a person has done to a backend.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{BackendName, ServiceName};

/// What follows from a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuardMode {
    /// Nobody is judged.
    Off,
    /// It is written down what would have been done.
    Observe,
    /// A backend that is found guilty is drained.
    Drain,
}

impl GuardMode {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Observe => "observe",
            Self::Drain => "drain",
        }
    }
}

impl fmt::Display for GuardMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a backend gets no new requests, whatever its weight says.
#[derive(Debug, Clone, PartialEq)]
pub struct Drain {
    pub service: ServiceName,
    pub backend: BackendName,
    /// What was drained. A drain by the guard ends with it; a person's is about whatever runs there.
    pub revision: String,
    /// The person, or `None` for the guard.
    pub by: Option<String>,
    pub at: SystemTime,
    /// For people, in one line.
    pub reason: String,
    /// How often the guard has drained this revision.
    pub times: u32,
    /// The share of the service's requests that it gets to prove itself; `None`: none.
    pub probation: Option<f64>,
    /// It stands still, maybe for a moment: it gets requests again then. Never durable.
    pub until: Option<SystemTime>,
}

impl Drain {
    /// Holds on, though the backend is of this revision now.
    #[must_use]
    pub fn holds_for(&self, revision: &str) -> bool {
        self.by.is_some() || self.revision == revision
    }
}
