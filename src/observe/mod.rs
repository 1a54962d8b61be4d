//! What is known about the traffic: counters and histograms per worker, their rendering, and the access log.

mod access_log;
mod backend;
mod causes;
mod counter;
mod headroom;
mod histogram;
mod memory;
mod mirror;
mod notify;
mod process;
mod reason;
mod render;
mod rollout;
mod service;
mod shadow;

pub use access_log::{AccessLine, AccessLog, AccessLogWriter};
pub use backend::{BackendCell, BackendMetrics, BackendTotals, CodeClass};
pub use counter::{Counter, Gauge, SharedGauge};
pub use headroom::{Headroom, Usage, open_files};
pub use histogram::{Histogram, HistogramTotals};
pub use memory::{Memory, default_limit, resident};
pub use mirror::{MirrorCell, MirrorDrop, MirrorMemory, MirrorMetrics, MirrorShare, MirrorTotals, PairDrop};
pub use notify::{DoraMetrics, DoraSample, NotifyMetrics, SinkMetrics, SinkTotals};
pub use process::{
    ConnectionError, ConnectionLimit, GuardMetrics, HandshakeError, JournalMetrics, ListenerTotals, ProcessMetrics,
    ReloadOutcome, WorkerCell,
};
pub use reason::Reason;
pub use render::Renderer;
pub use rollout::{RolloutMetrics, RolloutTotals};
pub use service::{ServiceCell, ServiceMetrics};
pub use shadow::{ShadowMetrics, ShadowTotals};
