//! Numbers with one writer and any number of readers.
//!
//! A worker counts with a plain load, add and store: no locked instruction, no cache line shared with another
//! writer. Readers may see a count that is one behind, never a torn one.

use std::sync::atomic::{AtomicU64, Ordering};

/// Grows only. Only the owning worker may call `add`.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Goes up and down. Only the owning worker may call `increase` and `decrease`.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn increase(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    pub fn decrease(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
    }

    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Goes up and down under many hands, up to a limit. On cache lines of its own, and for what happens rarely: a
/// connection's begin and end, never a request's.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct SharedGauge(AtomicU64);

impl SharedGauge {
    /// Adds one, unless there are `max` already.
    pub fn enter(&self, max: u64) -> bool {
        let entered = self.0.fetch_add(1, Ordering::Relaxed) < max;
        if !entered {
            self.leave();
        }
        entered
    }

    pub fn leave(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
