//! What belongs to no backend: connections, requests that found no service, reloads, the access log's drops.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::{Counter, Gauge};

/// One worker's counts for the whole process.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerCell {
    pub connections_open: Gauge,
    pub connections_accepted: Counter,
    pub tls_handshake_errors: Counter,
    /// Requests refused before they reached a service, by the status sent: 400, 404, others.
    pub refused_bad_request: Counter,
    pub refused_not_found: Counter,
    pub refused_other: Counter,
    /// Requests answered in place of a service under maintenance.
    pub maintenance_answers: Counter,
    /// Answers under compression.
    pub compressions: Gauge,
    /// Answers left as they were because too many were under compression.
    pub compressions_skipped: Counter,
    pub tunnels_open: Gauge,
    /// Connections kept without HTTP machinery because they idle.
    pub connections_parked: Gauge,
    pub accept_errors: Counter,
}

/// Sums of [`WorkerCell`]s.
#[derive(Debug, Clone, Copy, Default)]
pub struct ListenerTotals {
    pub connections_open: u64,
    pub connections_accepted: u64,
    pub connections_parked: u64,
    pub tunnels_open: u64,
}

/// How a reload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReloadOutcome {
    Applied { version: u64, warnings: Vec<String> },
    Refused { problems: String },
}

/// Process-wide numbers. Workers write their own cell; the rest is written by the control thread.
#[derive(Debug)]
pub struct ProcessMetrics {
    pub workers: Box<[WorkerCell]>,
    pub reloads_applied: AtomicU64,
    pub reloads_refused: AtomicU64,
    pub last_reload: Mutex<Option<(SystemTime, ReloadOutcome)>>,
    pub access_log_dropped: AtomicU64,
    pub resolve_errors: AtomicU64,
    pub started: SystemTime,
}

impl ProcessMetrics {
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers).map(|_| WorkerCell::default()).collect(),
            reloads_applied: AtomicU64::new(0),
            reloads_refused: AtomicU64::new(0),
            last_reload: Mutex::new(None),
            access_log_dropped: AtomicU64::new(0),
            resolve_errors: AtomicU64::new(0),
            started: SystemTime::now(),
        }
    }

    /// Adds up one number over the workers.
    pub fn sum(&self, number: impl Fn(&WorkerCell) -> u64) -> u64 {
        self.workers.iter().map(number).fold(0, u64::wrapping_add)
    }

    #[must_use]
    pub fn totals(&self) -> ListenerTotals {
        ListenerTotals {
            connections_open: self.sum(|w| w.connections_open.value()),
            connections_accepted: self.sum(|w| w.connections_accepted.value()),
            connections_parked: self.sum(|w| w.connections_parked.value()),
            tunnels_open: self.sum(|w| w.tunnels_open.value()),
        }
    }

    /// Writes down how a reload ended.
    pub fn reloaded(&self, outcome: ReloadOutcome) {
        let counter = match outcome {
            ReloadOutcome::Applied { .. } => &self.reloads_applied,
            ReloadOutcome::Refused { .. } => &self.reloads_refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let mut last = self.last_reload.lock().expect("no holder of this lock panics");
        *last = Some((SystemTime::now(), outcome));
    }
}
