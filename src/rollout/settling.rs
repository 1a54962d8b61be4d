//! The end of a rollout that was taken back: nothing goes to its candidate any more, and what was under way there still
//! counts. Its receipt waits for that, so that it is neither one short nor calls a request lost that stable is about to
//! answer; what requests see doesn't wait.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::record::Receipt;
use super::sight::Sight;
use crate::model::Point;
use crate::state::Backend;

/// Between two looks at what is under way.
pub(super) const SETTLE_INTERVAL: Duration = Duration::from_millis(20);
/// Whoever hangs for longer counts as it stands.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// One rollout whose receipt isn't complete.
#[derive(Debug)]
pub(super) struct Settling {
    sight: Sight,
    /// Who has taken it back, and on what grounds.
    pub(super) by: String,
    pub(super) evidence: Option<Value>,
    /// What hooks are told once all is counted.
    pub(super) tell: Option<Point>,
    until: Instant,
    was_quiet: bool,
}

impl Settling {
    pub(super) fn new(sight: Sight, by: &str, evidence: Option<Value>, tell: Option<Point>) -> Self {
        Self { sight, by: by.to_owned(), evidence, tell, until: Instant::now() + SETTLE_MAX, was_quiet: false }
    }

    /// What came since the process took the rollout up.
    pub(super) fn receipt(&self, candidate: &Backend) -> Receipt {
        self.sight.receipt(candidate)
    }

    /// Whether all of it is counted. Two looks in a row must find nothing under way: a worker's counters are seen in any
    /// order, and one that had drawn the candidate may have been about to ask it.
    pub(super) fn is_over(&mut self, candidate: &Backend) -> bool {
        let is_quiet = candidate.metrics.is_quiet();
        let is_over = (is_quiet && self.was_quiet) || self.until <= Instant::now();
        self.was_quiet = is_quiet;
        is_over
    }
}
