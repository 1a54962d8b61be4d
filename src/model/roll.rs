//! A roll: one backend's endpoints, taken out one after another or in waves, so that whatever runs there can be changed.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{BackendName, ServiceName};

/// A roll under way. It is held by whoever renews it: when that ends, everybody is back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRoll {
    /// Names it; grows by service and backend.
    pub id: u64,
    pub service: ServiceName,
    pub backend: BackendName,
    /// Who began it.
    pub by: String,
    /// What is being rolled out, in the words of whoever does.
    pub revision: Option<String>,
    /// It ends by itself so long after it was last renewed.
    pub lease_ms: u64,
    /// Endpoints that get nothing meanwhile.
    pub out: Vec<SocketAddr>,
}

/// How a roll ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RollOutcome {
    /// Every endpoint had its turn.
    Completed,
    /// Something failed, or somebody stopped it.
    Stopped,
    /// Nobody renewed it in time.
    Lost,
}

impl RollOutcome {
    /// For people and the history.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Stopped => "stopped",
            Self::Lost => "lost",
        }
    }
}
