//! From the workers to the judge: each failure of a judged request, as it happens.
//!
//! All workers and all backends share one bounded queue, so that the judge sees them in one order; when it is full,
//! failures are dropped whoever's they are, which leaves a comparison as fair as before. A healthy service sends
//! nothing here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use http::HeaderValue;
use tokio::sync::mpsc;

use crate::model::FailureKind;
use crate::observe::GuardMetrics;
use crate::state::Service;

/// Failures that may wait for the judge, who takes millions a second.
const REPORTS_MAX: usize = 16_384;

/// A first attempt of a request whose backend was drawn by chance, and how it failed.
#[derive(Debug, Clone)]
pub struct Report {
    /// As it was when the backend was drawn: its weights then are what counts.
    pub service: Arc<Service>,
    /// Its index then.
    pub index: usize,
    /// Index of the backend that failed.
    pub backend: usize,
    /// Index of the route; `None`: the service has none.
    pub route: Option<u32>,
    pub kind: FailureKind,
    /// What was drawn: the client, or `None` for the request itself.
    pub key: Option<u64>,
    pub request_id: HeaderValue,
    pub endpoint: Option<SocketAddr>,
    pub at: SystemTime,
}

/// The workers' end. Clones share one queue.
#[derive(Debug, Clone)]
pub struct Reporter {
    queue: mpsc::Sender<Report>,
    metrics: Arc<GuardMetrics>,
}

impl Reporter {
    /// Both ends of a queue.
    #[must_use]
    pub fn new(metrics: Arc<GuardMetrics>) -> (Self, mpsc::Receiver<Report>) {
        let (queue, reports) = mpsc::channel(REPORTS_MAX);
        (Self { queue, metrics }, reports)
    }

    /// Hands a failure to the judge, if there is room.
    pub fn report(&self, report: Report) {
        if self.queue.try_send(report).is_err() {
            self.metrics.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
