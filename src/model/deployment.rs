//! What was deployed live into a service's backends, and which of them is stable since.

use serde::{Deserialize, Serialize};

use super::{BackendName, ServiceName};

/// What outranks the file about one service, for as long as the file says what it said then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    pub service: ServiceName,
    /// `None`: what the file says.
    pub stable: Option<LiveStable>,
    /// What runs in which backend; others are as the file says.
    pub backends: Vec<Deployed>,
    /// The rollout that is under way.
    pub rollout: Option<OpenRollout>,
}

/// Another stable backend than the file's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveStable {
    pub backend: BackendName,
    /// What the file said.
    pub replaced: BackendName,
}

/// What runs in a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployed {
    pub backend: BackendName,
    pub revision: String,
    /// As proxy.toml would name them; empty: the file's own.
    pub endpoints: Vec<String>,
    /// What the file said.
    pub replaced_revision: String,
    /// Empty where the endpoints are the file's own.
    pub replaced_endpoints: Vec<String>,
}

impl Deployed {
    /// Only what runs there is another, and not where: a roll or a swap.
    #[must_use]
    pub fn is_revision_alone(&self) -> bool {
        self.endpoints.is_empty()
    }
}

/// What is kept of a revision, in bytes.
const REVISION_BYTES_MAX: usize = 256;

/// Whether this may be said to run somewhere.
///
/// # Errors
/// When it may not: what a revision is.
pub fn check_revision(text: &str) -> Result<(), String> {
    if text.trim().is_empty() || text.len() > REVISION_BYTES_MAX || text.contains(char::is_control) {
        return Err(format!("a revision is a text of 1 to {REVISION_BYTES_MAX} bytes in one line"));
    }
    Ok(())
}

/// A rollout that is under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenRollout {
    pub id: u64,
    pub candidate: BackendName,
    /// The cohort's requests go to the candidate.
    pub cohort: bool,
    /// And copies of so many percent of all requests.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mirrored: f64,
    /// A fresh copy of stable that has as large a share as the candidate, which is compared with it; `None`: with stable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<BackendName>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(percent: &f64) -> bool {
    *percent <= 0.0
}

impl Deployment {
    /// The file's word about everything.
    #[must_use]
    pub fn none(service: ServiceName) -> Self {
        Self { service, stable: None, backends: Vec::new(), rollout: None }
    }

    /// There is nothing in it.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.stable.is_none() && self.backends.is_empty() && self.rollout.is_none()
    }

    #[must_use]
    pub fn of(&self, backend: &BackendName) -> Option<&Deployed> {
        self.backends.iter().find(|deployed| deployed.backend == *backend)
    }
}
