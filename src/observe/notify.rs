//! How telling others of events goes, by sink; and what the history says of deployments, by service.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// All sinks that the file names.
#[derive(Debug, Default)]
pub struct NotifyMetrics(Mutex<BTreeMap<String, Arc<SinkMetrics>>>);

/// One sink's counts; its task writes them.
#[derive(Debug, Default)]
pub struct SinkMetrics {
    delivered: AtomicU64,
    failed: AtomicU64,
    skipped: AtomicU64,
    waiting: AtomicU64,
}

/// A sink's counts at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SinkTotals {
    pub delivered: u64,
    /// Attempts that came to nothing.
    pub failed: u64,
    /// Events that it will never hear of.
    pub skipped: u64,
    pub waiting: u64,
}

impl NotifyMetrics {
    /// The counts of a sink, which begin with its name.
    #[must_use]
    pub fn sink(&self, name: &str) -> Arc<SinkMetrics> {
        Arc::clone(self.sinks().entry(name.to_owned()).or_default())
    }

    /// Forgets those that the file has no more.
    pub fn keep(&self, is_there: impl Fn(&str) -> bool) {
        self.sinks().retain(|name, _| is_there(name));
    }

    #[must_use]
    pub fn totals(&self) -> Vec<(String, SinkTotals)> {
        self.sinks().iter().map(|(name, sink)| (name.clone(), sink.totals())).collect()
    }

    fn sinks(&self) -> MutexGuard<'_, BTreeMap<String, Arc<SinkMetrics>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SinkMetrics {
    pub fn delivered(&self) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
    }

    pub fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub fn skipped(&self, events: u64) {
        self.skipped.fetch_add(events, Ordering::Relaxed);
    }

    pub fn waiting(&self, events: u64) {
        self.waiting.store(events, Ordering::Relaxed);
    }

    fn totals(&self) -> SinkTotals {
        let value = |count: &AtomicU64| count.load(Ordering::Relaxed);
        SinkTotals {
            delivered: value(&self.delivered),
            failed: value(&self.failed),
            skipped: value(&self.skipped),
            waiting: value(&self.waiting),
        }
    }
}

/// What the history of the last 30 days says of each service's deployments.
#[derive(Debug, Default)]
pub struct DoraMetrics(Mutex<Vec<DoraSample>>);

/// One service's; what nothing is known of is absent.
#[derive(Debug, Clone, PartialEq)]
pub struct DoraSample {
    pub service: String,
    pub deployments: u64,
    pub deployments_per_day: f64,
    pub lead_time_seconds: Option<f64>,
    pub change_failure_ratio: Option<f64>,
    pub time_to_restore_seconds: Option<f64>,
}

impl DoraMetrics {
    pub fn set(&self, samples: Vec<DoraSample>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = samples;
    }

    #[must_use]
    pub fn samples(&self) -> Vec<DoraSample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
