//! Why a rollout wasn't begun, or a person's word about one has no effect.

use std::fmt;

use super::machine::Unfit;
use crate::control::ControlError;
use crate::state::Refused;

/// See the module's text. Nothing was changed.
#[derive(Debug)]
pub enum RolloutError {
    /// It doesn't fit what goes on: a rollout is under way, the revision was rolled back before, and the like.
    Conflict(String),
    /// What was asked for makes no sense.
    Invalid(String),
    /// The calendar says no.
    Frozen {
        window: String,
    },
    /// There is no such rollout.
    NoRollout {
        service: String,
        id: Option<u64>,
    },
    /// Another rollout, or another state of it, than the caller has seen.
    Outdated {
        now: u64,
    },
    Control(ControlError),
    /// The process is about to end, or too much is asked of it.
    Stopping,
}

impl fmt::Display for RolloutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict(reason) | Self::Invalid(reason) => f.write_str(reason),
            Self::Frozen { window } => write!(f, "{window}; with --override-freeze WHY it goes on all the same"),
            Self::NoRollout { service, id: None } => write!(f, "there was no rollout of {service} yet"),
            Self::NoRollout { service, id: Some(id) } => {
                write!(f, "there is no rollout {id} of {service}, or not any more; the latest 50 are kept")
            }
            Self::Outdated { now } => {
                write!(f, "the rollout has changed since you looked (it is at \"{now}\" now); look again, then decide")
            }
            Self::Control(error) => error.fmt(f),
            Self::Stopping => write!(f, "tidegate is stopping, or is asked too much at once"),
        }
    }
}

impl std::error::Error for RolloutError {}

impl From<ControlError> for RolloutError {
    fn from(error: ControlError) -> Self {
        Self::Control(error)
    }
}

impl From<Refused> for RolloutError {
    fn from(refused: Refused) -> Self {
        Self::Control(refused.into())
    }
}

impl From<Unfit> for RolloutError {
    fn from(unfit: Unfit) -> Self {
        Self::Conflict(unfit.to_string())
    }
}
