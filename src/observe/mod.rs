//! What is known about the traffic: counters and histograms per worker, their rendering, and the access log.

mod access_log;
mod backend;
mod counter;
mod histogram;
mod process;
mod render;
mod service;

pub use access_log::{AccessLine, AccessLog, AccessLogWriter};
pub use backend::{BackendCell, BackendMetrics, BackendTotals, CodeClass};
pub use counter::{Counter, Gauge, SharedGauge};
pub use histogram::{Histogram, HistogramTotals};
pub use process::{
    ConnectionError, ConnectionLimit, HandshakeError, JournalMetrics, ListenerTotals, ProcessMetrics, ReloadOutcome,
    WorkerCell,
};
pub use render::Renderer;
pub use service::{ServiceCell, ServiceMetrics};
