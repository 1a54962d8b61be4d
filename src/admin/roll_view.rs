//! What is told of rolls, and of endpoints that something is done to.

use serde::{Deserialize, Serialize};

use crate::control::RollSight;
use crate::model::RollOutcome;

/// A roll that is to begin.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RollBody {
    /// How long it may go without a word: `"15s"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// What is rolled out: the backend's revision once all have had their turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
}

/// A roll that goes on.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RenewBody {
    /// Who is to get nothing, by address and port; `None`: as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out: Option<Vec<String>>,
}

/// A roll or a swap that is over.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndBody {
    pub outcome: RollOutcome,
    pub reason: String,
    /// Of a swap: what was swapped in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Of a swap: the backend that it was of; the only one that gets requests where nobody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
}

/// A roll under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RollView {
    pub id: u64,
    pub service: String,
    pub backend: String,
    pub by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    pub lease_seconds: f64,
    /// Until it ends if nothing more is heard of it.
    pub seconds_left: f64,
    /// Who gets nothing.
    pub out: Vec<String>,
}

impl RollView {
    #[must_use]
    pub fn new(sight: RollSight) -> Self {
        let roll = sight.roll;
        Self {
            id: roll.id,
            service: roll.service.to_string(),
            backend: roll.backend.to_string(),
            by: roll.by,
            revision: roll.revision,
            lease_seconds: roll.lease_ms as f64 / 1000.0,
            seconds_left: sight.left.as_millis() as f64 / 1000.0,
            out: roll.out.iter().map(ToString::to_string).collect(),
        }
    }
}

/// A backend's endpoints, each by itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EndpointsView {
    pub service: String,
    pub backend: String,
    /// The roll of the service that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roll: Option<RollView>,
    pub endpoints: Vec<ReadinessView>,
}

/// One endpoint, and whether it could take requests.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReadinessView {
    /// Address and port, which name it.
    pub address: String,
    /// As configured: a name or an address.
    pub host: String,
    pub port: u16,
    /// As in a service's view.
    pub state: String,
    pub in_flight: u64,
    /// Health checks so far; absent where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checks: Option<u64>,
    /// Its last check was good, or, where it has none, it accepts connections. That is only tried while it gets nothing:
    /// absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Why it isn't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
