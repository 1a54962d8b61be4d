//! What one service refused before it chose a backend. One cell per worker, made when that worker first refuses
//! something.

use std::sync::OnceLock;

use super::Counter;

/// One worker's counts for one service.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ServiceCell {
    /// Not let in by the access lists.
    pub denied: Counter,
    /// Sent to https.
    pub redirected: Counter,
    /// Answered in its place while it was under maintenance.
    pub maintenance_answers: Counter,
    /// With a body too large by its own account.
    pub too_large: Counter,
    /// Above a rate limit.
    pub limited: Counter,
    /// Waited while the service was held.
    pub held: Counter,
}

/// All workers' cells of one service. Outlives snapshots.
#[derive(Debug)]
pub struct ServiceMetrics {
    cells: Box<[OnceLock<Box<ServiceCell>>]>,
}

impl ServiceMetrics {
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self { cells: (0..workers).map(|_| OnceLock::new()).collect() }
    }

    /// The cell that worker `index`, and no other, writes.
    #[must_use]
    pub fn cell(&self, index: usize) -> &ServiceCell {
        self.cells[index].get_or_init(Box::default)
    }

    /// Adds up one number over the workers.
    pub fn sum(&self, number: impl Fn(&ServiceCell) -> u64) -> u64 {
        self.cells.iter().filter_map(OnceLock::get).map(|cell| number(cell)).sum()
    }
}
