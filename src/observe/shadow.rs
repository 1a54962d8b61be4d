//! What comparing shadows with their primaries has come to.

use std::sync::Mutex;

/// Written by the thread that compares, about once a second.
#[derive(Debug, Default)]
pub struct ShadowMetrics {
    pub mirrors: Mutex<Vec<ShadowTotals>>,
}

/// Of the present revision of one mirror.
#[derive(Debug, Clone, PartialEq)]
pub struct ShadowTotals {
    pub service: String,
    pub backend: String,
    /// Pairs, by what was found.
    pub same: u64,
    pub different: u64,
    pub skipped: u64,
    /// Fields that ever differed, and those that really do.
    pub fields: u64,
    pub fields_found: u64,
    /// Part of the pairs.
    pub difference_at_most: f64,
    pub verdict: &'static str,
}
