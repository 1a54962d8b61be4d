//! What belongs to no backend: connections, requests that found no service, reloads, the access log's drops.

use std::ops::Index;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use super::causes::causes;
use super::{
    Counter, DoraMetrics, Gauge, Headroom, Memory, MirrorMemory, NotifyMetrics, Reason, RolloutMetrics, ShadowMetrics,
};

/// One worker's counts for the whole process.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerCell {
    pub connections_open: Gauge,
    pub connections_accepted: Counter,
    pub connections_refused: [Counter; ConnectionLimit::COUNT],
    pub connection_errors: [Counter; ConnectionError::COUNT],
    pub tls_handshake_errors: [Counter; HandshakeError::COUNT],
    /// Requests refused before they reached a service, by the status sent: 400, 404, 408, 431, others.
    pub refused_bad_request: Counter,
    pub refused_not_found: Counter,
    pub refused_timeout: Counter,
    pub refused_head_too_large: Counter,
    pub refused_other: Counter,
    /// Answers under compression.
    pub compressions: Gauge,
    /// Answers left as they were because too many were under compression.
    pub compressions_skipped: Counter,
    pub tunnels_open: Gauge,
    /// Connections kept without HTTP machinery because they idle.
    pub connections_parked: Gauge,
    pub accept_errors: Counter,
    /// Requests that didn't end as they should have.
    pub request_errors: ReasonCounters,
}

causes! {
    /// A limit that a new connection was over.
    ConnectionLimit {
        Total = "connections",
        Listener = "listener",
        Client = "connections_per_client",
        Memory = "memory",
    }
}

causes! {
    /// Why a client's connection was ended, other than by the client or a limit of time while it idled.
    ConnectionError {
        /// No HTTP/1 head: answered 400.
        MalformedHead = "malformed_head",
        /// Answered 431, or 414.
        HeadTooLarge = "head_too_large",
        /// Answered 408.
        HeaderTimeout = "header_timeout",
        /// HTTP/2 frames that make no sense.
        Protocol = "protocol_error",
        /// HTTP/2 frames that only cost us: ENHANCE_YOUR_CALM.
        Flood = "flood",
        /// Most of its HTTP/2 requests were taken back.
        Resets = "resets",
        /// No PROXY header, or none that makes sense.
        ProxyHeader = "proxy_header",
        ProxyTimeout = "proxy_timeout",
        /// From an address that may not send PROXY headers.
        ProxyUntrusted = "proxy_untrusted",
    }
}

causes! {
    /// Why a TLS handshake with a client failed.
    HandshakeError {
        Timeout = "timeout",
        /// The client left.
        Closed = "closed",
        /// The first bytes were no TLS, or broken.
        NotTls = "not_tls",
        /// No common version, cipher or protocol.
        Incompatible = "incompatible",
        /// The client's certificate is missing or not good.
        ClientCertificate = "client_certificate",
        /// The client refused us, most often our certificate.
        Alert = "alert",
        Other = "other",
    }
}

/// Sums of [`WorkerCell`]s.
#[derive(Debug, Clone, Copy, Default)]
pub struct ListenerTotals {
    pub connections_open: u64,
    pub connections_accepted: u64,
    pub connections_parked: u64,
    pub tunnels_open: u64,
}

/// A counter for each reason.
#[derive(Debug)]
pub struct ReasonCounters([Counter; Reason::COUNT]);

impl Default for ReasonCounters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl Index<Reason> for ReasonCounters {
    type Output = Counter;

    fn index(&self, reason: Reason) -> &Counter {
        &self.0[reason as usize]
    }
}

/// Counts of the journal; its thread writes them.
#[derive(Debug, Default)]
pub struct JournalMetrics {
    pub written: AtomicU64,
    pub errors: AtomicU64,
    /// Entries that wait for another try.
    pub backlog: AtomicU64,
    /// Events that were given up because too many waited.
    pub dropped: AtomicU64,
    /// The file could be opened.
    pub usable: AtomicBool,
}

/// Counts of the guard; the control thread writes them.
#[derive(Debug, Default)]
pub struct GuardMetrics {
    pub drains: AtomicU64,
    /// Backends that stood still for a moment.
    pub suspensions: AtomicU64,
    /// It was told only to observe.
    pub would_drain: AtomicU64,
    /// Stable was the bad one.
    pub alarms: AtomicU64,
    /// Failures that nobody judged, for want of room; workers write this.
    pub dropped: AtomicU64,
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
    pub memory: Memory,
    pub headroom: Headroom,
    pub mirror_memory: Arc<MirrorMemory>,
    pub reloads_applied: AtomicU64,
    pub reloads_refused: AtomicU64,
    pub last_reload: Mutex<Option<(SystemTime, ReloadOutcome)>>,
    pub access_log_dropped: AtomicU64,
    pub resolve_errors: AtomicU64,
    pub journal: Arc<JournalMetrics>,
    pub guard: Arc<GuardMetrics>,
    pub shadow: Arc<ShadowMetrics>,
    pub notify: Arc<NotifyMetrics>,
    pub dora: Arc<DoraMetrics>,
    pub rollout: Arc<RolloutMetrics>,
    pub started: SystemTime,
}

impl ProcessMetrics {
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers).map(|_| WorkerCell::default()).collect(),
            memory: Memory::default(),
            headroom: Headroom::default(),
            mirror_memory: Arc::default(),
            reloads_applied: AtomicU64::new(0),
            reloads_refused: AtomicU64::new(0),
            last_reload: Mutex::new(None),
            access_log_dropped: AtomicU64::new(0),
            resolve_errors: AtomicU64::new(0),
            journal: Arc::default(),
            guard: Arc::default(),
            shadow: Arc::default(),
            notify: Arc::default(),
            dora: Arc::default(),
            rollout: Arc::default(),
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
        let mut last = self.last_reload.lock().expect("no holder of this lock panics");
        // Under the lock: whoever sees that there was one more sees how it ended.
        counter.fetch_add(1, Ordering::Relaxed);
        *last = Some((SystemTime::now(), outcome));
    }
}
