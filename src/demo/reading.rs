//! What the proxy has counted at one moment, and what came between two such moments.

use std::time::{Duration, Instant};

use super::backends::{DEPLOYMENTS, SERVICE};
use super::line::Style;
use crate::observe::BackendTotals;
use crate::state::Store;

/// The counts and weights of all backends at one moment.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) at: Instant,
    backends: Vec<BackendReading>,
}

#[derive(Debug, Clone)]
struct BackendReading {
    name: String,
    weight: f64,
    drained: bool,
    totals: BackendTotals,
}

/// One backend between two readings.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) style: Style,
    pub(super) weight: f64,
    /// It gets no new requests, whatever weight somebody gives it, and not only for a moment.
    pub(super) drained: bool,
    /// The share of requests that the weight stands for, 0 to 1.
    pub(super) expected: f64,
    /// The share of requests between the readings, 0 to 1; `None` where there were none.
    pub(super) share: Option<f64>,
    /// Requests between the readings.
    pub(super) recent: u64,
    /// Requests up to the later reading.
    pub(super) requests: u64,
    /// Answers of 500 and above, up to the later reading.
    pub(super) errors: u64,
    /// Of requests between the readings.
    pub(super) p50: Option<Duration>,
    pub(super) p99: Option<Duration>,
}

impl Reading {
    pub(super) fn take(store: &Store, at: Instant) -> Self {
        let snapshot = store.current();
        let backends = snapshot.service(SERVICE).map_or(&[][..], |service| &service.backends);
        let read = |backend: &crate::state::Backend| BackendReading {
            name: backend.name.to_string(),
            weight: backend.effective.value(),
            drained: backend.is_drained() && backend.drain.as_ref().is_some_and(|drain| drain.until.is_none()),
            totals: backend.metrics.totals(),
        };
        Self { at, backends: backends.iter().map(read).collect() }
    }

    /// In the form of the command line: `blue=90 green=0 canary=10`.
    pub(super) fn weights(&self) -> String {
        self.backends.iter().map(|b| format!("{}={}", b.name, b.weight)).collect::<Vec<_>>().join(" ")
    }

    /// Requests so far that a backend failed and stable answered. They count at both.
    pub(super) fn rescued(&self) -> u64 {
        self.backends.iter().map(|backend| backend.totals.rescues_answered).sum()
    }

    /// The same counts under the weights of another reading.
    pub(super) fn under_the_weights_of(&self, other: &Self) -> Self {
        let mut reading = self.clone();
        for (backend, other) in reading.backends.iter_mut().zip(&other.backends) {
            backend.weight = other.weight;
        }
        reading
    }

    /// What happened after `earlier`, a reading of the same backends, under the weights of this one.
    pub(super) fn since(&self, earlier: &Self) -> Vec<Row> {
        let recent: Vec<u64> = self.backends.iter().zip(&earlier.backends).map(|(b, e)| b.requests_since(e)).collect();
        let all_recent: u64 = recent.iter().sum();
        let all_weights: f64 = self.backends.iter().map(|b| b.weight).sum();
        let pairs = self.backends.iter().zip(&earlier.backends).zip(recent);
        let row = |((backend, before), recent): ((&BackendReading, &BackendReading), u64)| {
            let durations = backend.totals.duration.since(&before.totals.duration);
            Row {
                name: backend.name.clone(),
                style: style(&backend.name),
                weight: backend.weight,
                drained: backend.drained,
                expected: part(backend.weight, all_weights).unwrap_or(0.0),
                share: part(recent as f64, all_recent as f64),
                recent,
                requests: backend.totals.requests(),
                errors: backend.totals.errors(),
                p50: durations.quantile(0.5),
                p99: durations.quantile(0.99),
            }
        };
        pairs.map(row).collect()
    }
}

impl BackendReading {
    fn requests_since(&self, earlier: &Self) -> u64 {
        self.totals.requests().saturating_sub(earlier.totals.requests())
    }
}

fn part(of: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| of / whole)
}

fn style(name: &str) -> Style {
    DEPLOYMENTS.iter().find(|d| d.name == name).map_or(Style::Plain, |d| d.style)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Of blue and canary: weight, answers of 200, answers of 500.
    pub(in crate::demo) fn reading(at: Instant, counts: [(f64, u64, u64); 2]) -> Reading {
        let backend = |name: &str, (weight, answered, failed): (f64, u64, u64)| {
            let mut totals = BackendTotals::default();
            totals.codes[1] = answered;
            totals.codes[4] = failed;
            BackendReading { name: name.to_owned(), weight, drained: false, totals }
        };
        Reading { at, backends: vec![backend("blue", counts[0]), backend("canary", counts[1])] }
    }

    #[test]
    fn shares_are_of_what_came_between_two_readings() {
        let now = Instant::now();
        let earlier = reading(now, [(3.0, 100, 0), (1.0, 100, 0)]);
        let rows = reading(now, [(3.0, 175, 5), (1.0, 120, 0)]).since(&earlier);
        assert_eq!((rows[0].recent, rows[0].requests, rows[0].errors), (80, 180, 5));
        assert_eq!((rows[0].share, rows[0].expected), (Some(0.8), 0.75));
        assert_eq!((rows[1].share, rows[1].expected), (Some(0.2), 0.25));
    }

    #[test]
    fn without_requests_there_is_no_share() {
        let still = reading(Instant::now(), [(1.0, 7, 0), (0.0, 0, 0)]);
        assert!(still.since(&still).iter().all(|row| row.share.is_none() && row.p99.is_none()));
        assert_eq!(still.weights(), "blue=1 canary=0");
    }
}
