//! Where rollouts stand, for whoever watches from outside.

use std::sync::Mutex;

/// Written by the control thread, several times a second.
#[derive(Debug, Default)]
pub struct RolloutMetrics {
    pub services: Mutex<Vec<RolloutTotals>>,
}

/// Of one service: its latest rollout, and how those of this process have ended.
#[derive(Debug, Clone, PartialEq)]
pub struct RolloutTotals {
    pub service: String,
    pub state: &'static str,
    /// From 1; 0 before the first and after the last.
    pub step: usize,
    pub steps: usize,
    /// The candidate's part of what it shares with stable.
    pub share: f64,
    /// By outcome.
    pub ended: Vec<(&'static str, u64)>,
}
