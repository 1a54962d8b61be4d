//! What one backend did: requests by code class, bytes, durations. One cell per worker, made when that worker
//! first sends a request there, so ten thousand idle services cost nothing.

use std::sync::OnceLock;

use http::StatusCode;

use super::{Counter, Gauge, Histogram, HistogramTotals};

/// The first digit of a status code; `None` where no response was sent because the client had left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeClass {
    Informational,
    Success,
    Redirection,
    ClientError,
    ServerError,
    None,
}

impl CodeClass {
    pub const ALL: [Self; 6] =
        [Self::Informational, Self::Success, Self::Redirection, Self::ClientError, Self::ServerError, Self::None];

    #[must_use]
    pub fn of(status: StatusCode) -> Self {
        match status.as_u16() / 100 {
            1 => Self::Informational,
            2 => Self::Success,
            3 => Self::Redirection,
            4 => Self::ClientError,
            _ => Self::ServerError,
        }
    }

    /// The value of the metrics label `code`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Informational => "1xx",
            Self::Success => "2xx",
            Self::Redirection => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
            Self::None => "none",
        }
    }
}

/// One worker's counts for one backend, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct BackendCell {
    codes: [Counter; 6],
    pub in_flight: Gauge,
    /// Request bodies, bytes.
    pub received: Counter,
    /// Response bodies, bytes.
    pub sent: Counter,
    pub connects: Counter,
    pub connect_errors: Counter,
    /// Requests sent again because an idle connection turned out to be closed.
    pub replays: Counter,
    /// Requests sent again to another endpoint.
    pub retries: Counter,
    /// Requests that stable answered after this backend had failed, and those that it failed, too.
    pub rescues_answered: Counter,
    pub rescues_failed: Counter,
    /// Requests that it has failed and that stable is asked for.
    pub rescues_under_way: Gauge,
    /// Requests that stable was asked for, too, because this backend didn't answer.
    pub hedges: Counter,
    /// Failures passed on because the service had no more to spend on another attempt.
    pub budget_exhausted: Counter,
    /// Refused because as many waited for the backend as may.
    pub queue_full: Counter,
    /// Refused because they waited for the backend in vain.
    pub queue_timeouts: Counter,
    /// Requests begun to responses ended.
    pub duration: Histogram,
    /// Requests sent on, or ready to be, to response heads received.
    pub first_byte: Histogram,
    /// Judged first attempts, written to an open connection, to response heads received.
    pub answer: Histogram,
}

impl BackendCell {
    pub fn count(&self, class: CodeClass) {
        self.codes[class as usize].add(1);
    }

    /// Requests that have ended.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.codes.iter().map(Counter::value).sum()
    }
}

/// All workers' cells of one backend. Outlives snapshots; shared by all that name the same service and backend.
#[derive(Debug)]
pub struct BackendMetrics {
    cells: Box<[OnceLock<Box<BackendCell>>]>,
}

impl BackendMetrics {
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self { cells: (0..workers).map(|_| OnceLock::new()).collect() }
    }

    /// The cell that worker `index`, and no other, writes.
    #[must_use]
    pub fn cell(&self, index: usize) -> &BackendCell {
        self.cells[index].get_or_init(Box::default)
    }

    /// Requests begun and not ended, over all workers.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.cells.iter().filter_map(OnceLock::get).fold(0, |sum, cell| sum.wrapping_add(cell.in_flight.value()))
    }

    /// No request is under way there, nor at stable in its place.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let under_way = |cell: &BackendCell| cell.in_flight.value().wrapping_add(cell.rescues_under_way.value());
        self.cells.iter().filter_map(OnceLock::get).map(|cell| under_way(cell)).fold(0, u64::wrapping_add) == 0
    }

    /// Everything, added up over the workers.
    #[must_use]
    pub fn totals(&self) -> BackendTotals {
        let mut totals = BackendTotals::default();
        for cell in self.cells.iter().filter_map(OnceLock::get) {
            totals.add(cell);
        }
        totals
    }
}

/// The sum of all workers' cells at one moment.
#[derive(Debug, Clone, Default)]
pub struct BackendTotals {
    /// In the order of [`CodeClass::ALL`].
    pub codes: [u64; 6],
    pub in_flight: u64,
    pub received: u64,
    pub sent: u64,
    pub connects: u64,
    pub connect_errors: u64,
    pub replays: u64,
    pub retries: u64,
    pub rescues_answered: u64,
    pub rescues_failed: u64,
    pub hedges: u64,
    pub budget_exhausted: u64,
    pub queue_full: u64,
    pub queue_timeouts: u64,
    pub duration: HistogramTotals,
    pub first_byte: HistogramTotals,
    pub answer: HistogramTotals,
}

impl BackendTotals {
    fn add(&mut self, cell: &BackendCell) {
        for (total, counter) in self.codes.iter_mut().zip(&cell.codes) {
            *total += counter.value();
        }
        self.in_flight = self.in_flight.wrapping_add(cell.in_flight.value());
        self.received += cell.received.value();
        self.sent += cell.sent.value();
        self.connects += cell.connects.value();
        self.connect_errors += cell.connect_errors.value();
        self.replays += cell.replays.value();
        self.retries += cell.retries.value();
        self.rescues_answered += cell.rescues_answered.value();
        self.rescues_failed += cell.rescues_failed.value();
        self.hedges += cell.hedges.value();
        self.budget_exhausted += cell.budget_exhausted.value();
        self.queue_full += cell.queue_full.value();
        self.queue_timeouts += cell.queue_timeouts.value();
        self.duration.add(&cell.duration);
        self.first_byte.add(&cell.first_byte);
        self.answer.add(&cell.answer);
    }

    #[must_use]
    pub fn requests(&self) -> u64 {
        self.codes.iter().sum()
    }

    /// Server errors: what a client would call the backend's fault.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.codes[CodeClass::ServerError as usize]
    }
}
