//! What somebody else has to say before a rollout goes on.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One gate of a plan. Whom it asks and for what stands in the file alone, since secrets do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    pub name: String,
    pub kind: GateKind,
    /// When it is asked; a metric is watched all the time.
    pub at: Vec<Point>,
    pub on_failure: OnFailure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateKind {
    /// Requests to the candidate.
    Smoke,
    /// Somebody's own word.
    Webhook,
    /// A number that must stay within bounds.
    Metric,
}

/// A moment in a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Point {
    /// Before the first step.
    Before,
    /// Before it goes on from a step, the last one included.
    Step,
    /// Before the step that gives the candidate everything.
    Promotion,
    /// Completed. Nothing can be refused any more.
    After,
    /// Taken back, for whatever reason. Nothing can be refused, either.
    Rollback,
}

/// What follows when a gate says no. Where nobody answers, the rollout pauses in either case: that is no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    Pause,
    Rollback,
}

impl GateKind {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Webhook => "webhook",
            Self::Metric => "metric",
        }
    }
}

impl Point {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::Step => "step",
            Self::Promotion => "promotion",
            Self::After => "after",
            Self::Rollback => "rollback",
        }
    }
}

/// For people: `webhook ci`.
impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            GateKind::Smoke => write!(f, "smoke checks"),
            kind => write!(f, "{} {}", kind.name(), self.name),
        }
    }
}
