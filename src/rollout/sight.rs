//! What the task sees of a rollout under way: counters and the guard's trial become evidence.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::baseline::Reference;
use super::evidence::{Count, Evidence, Likeness};
use super::gates::Gates;
use super::record::{Receipt, Record};
use crate::analysis::RatioTally;
use crate::guard::TrialSight;
use crate::model::{BackendName, Step};
use crate::observe::{BackendTotals, CodeClass};
use crate::state::{Backend, Service};
use crate::upstream::Endpoint;

/// Looks that "lately" is made of.
const LOOKS: usize = 50;
/// An endpoint that can't be connected to within this isn't up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// One side's counters at a moment.
#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    /// First attempts that chance sent there, and that were answered.
    answered: u64,
    /// Whatever was sent there, and how much of it failed.
    all: Count,
    /// Whose client left before the answer.
    unanswered: u64,
    rescued: u64,
}

impl Counters {
    fn of(backend: &Backend) -> Self {
        let totals = backend.metrics.totals();
        Self {
            answered: totals.answer.count(),
            all: tally(&totals),
            unanswered: totals.codes[CodeClass::None as usize],
            rescued: totals.rescues_answered,
        }
    }
}

fn tally(totals: &BackendTotals) -> Count {
    // What found no place there never came to it.
    let turned_away = totals.queue_full + totals.queue_timeouts;
    Count {
        requests: totals.requests().saturating_sub(turned_away),
        failures: totals.errors().saturating_sub(turned_away),
    }
}

/// How a backend has done since the process began.
pub(super) fn usual(backend: &Backend) -> Count {
    tally(&backend.metrics.totals())
}

/// What is known of a rollout since this process took it up.
#[derive(Debug)]
pub(super) struct Sight {
    since: Instant,
    /// The rollout's own time then.
    since_ms: u64,
    began: [Counters; 2],
    /// Of the step that is under way.
    step: Option<usize>,
    step_began: Counters,
    step_began_tally: RatioTally,
    /// What the candidate is compared with, and since when.
    reference: Reference,
    compared_since: [Counters; 2],
    /// Failures beyond the rate of what it was compared with before.
    excess_before: f64,
    /// Failures of trials that the guard has given up since: beside stable, and beside the baseline.
    tallies_before: [[RatioTally; 4]; 2],
    /// The guard's, which begins anew with each rollout.
    trial: Option<TrialSight>,
    stable_looks: VecDeque<Count>,
    connecting: Option<JoinHandle<bool>>,
    connected: bool,
    pub(super) gates: Gates,
}

/// The two sides of a rollout, and what else they are compared with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sides<'s> {
    pub(super) service: &'s Service,
    pub(super) candidate: &'s Backend,
    pub(super) stable: &'s Backend,
    pub(super) baseline: Option<&'s Backend>,
}

impl<'s> Sides<'s> {
    pub(super) fn of(service: &'s Service, record: &Record) -> Option<Self> {
        let backend = |name: &BackendName| service.backend(name.as_str());
        let baseline = match &record.plan.baseline {
            Some(name) => Some(backend(name)?),
            None => None,
        };
        Some(Self { service, candidate: backend(&record.candidate)?, stable: backend(&record.stable)?, baseline })
    }

    fn reference(self, reference: Reference) -> &'s Backend {
        match reference {
            Reference::Stable => self.stable,
            Reference::Baseline => self.baseline.unwrap_or(self.stable),
        }
    }

    /// Those that must be up before it begins.
    fn fresh(self) -> impl Iterator<Item = &'s Backend> {
        [self.candidate].into_iter().chain(self.baseline)
    }
}

impl Sight {
    pub(super) fn new(sides: Sides<'_>, record: &Record) -> Self {
        let began = [Counters::of(sides.candidate), Counters::of(sides.stable)];
        let reference = Reference::of(record);
        Self {
            since: Instant::now(),
            since_ms: record.state.at_ms,
            began,
            step: record.state.step(),
            step_began: began[0],
            step_began_tally: RatioTally::default(),
            reference,
            compared_since: [began[0], Counters::of(sides.reference(reference))],
            excess_before: 0.0,
            tallies_before: Default::default(),
            trial: None,
            stable_looks: VecDeque::new(),
            connecting: None,
            connected: false,
            gates: Gates::default(),
        }
    }

    /// The rollout's own time.
    pub(super) fn now_ms(&self) -> u64 {
        self.since_ms + self.since.elapsed().as_millis() as u64
    }

    /// What is counted by step begins anew, and so it does where the candidate is compared with something else.
    pub(super) fn note(&mut self, record: &Record, sides: Sides<'_>) {
        self.gates.note(&record.state);
        let (step, reference) = (record.state.step(), Reference::of(record));
        let is_other = self.reference != reference;
        if is_other {
            self.excess_before += self.excess_since(record, sides);
            self.set_aside();
            self.reference = reference;
            self.compared_since = [Counters::of(sides.candidate), Counters::of(sides.reference(reference))];
        }
        if is_other || self.step != step {
            self.step = step;
            self.step_began = Counters::of(sides.candidate);
            self.step_began_tally = self.tallies()[0].clone();
        }
    }

    /// What the trial has counted is kept beside what it was compared with.
    fn set_aside(&mut self) {
        if let Some(was) = self.trial.take() {
            let sum = |(all, more): (&mut RatioTally, &RatioTally)| *all = all.plus(more);
            self.tallies_before[self.reference as usize].iter_mut().zip(&was.tallies).for_each(sum);
        }
    }

    /// Failures beyond the rate of what the candidate is compared with, as far as this process has seen them.
    fn excess_since(&self, record: &Record, sides: Sides<'_>) -> f64 {
        let [candidate, reference] = self.compared_since;
        let now = Counters::of(sides.reference(self.reference)).all;
        let reference = match self.reference {
            Reference::Baseline => now.since(reference.all),
            // What is held back after a flip is little, and what stable did before says as much.
            Reference::Stable => now.since(self.began[1].all).plus(record.usual),
        };
        Counters::of(sides.candidate).all.since(candidate.all).beyond(reference)
    }

    /// The same of the whole rollout that has a baseline, for the journal.
    pub(super) fn excess(&self, record: &Record, sides: Sides<'_>) -> f64 {
        self.excess_before + self.excess_since(record, sides)
    }

    /// Takes note of how the guard's trial stands. Call it at each look.
    pub(super) fn look(&mut self, sides: Sides<'_>, trial: Option<TrialSight>) {
        // One that goes on beside something else has nothing to say yet.
        let trial = trial.filter(|trial| trial.reference == sides.reference(self.reference).name);
        if self.trial.as_ref().is_some_and(|was| trial.as_ref().is_none_or(|now| now.number != was.number)) {
            self.set_aside();
        }
        self.trial = trial;
        if self.stable_looks.len() >= LOOKS {
            self.stable_looks.pop_front();
        }
        self.stable_looks.push_back(Counters::of(sides.stable).all);
    }

    fn tallies(&self) -> [RatioTally; 4] {
        let mut tallies = self.tallies_before[self.reference as usize].clone();
        if let Some(trial) = &self.trial {
            tallies.iter_mut().zip(&trial.tallies).for_each(|(all, more)| *all = all.plus(more));
        }
        tallies
    }

    /// `judged`: somebody counts failures.
    pub(super) fn evidence(&self, record: &Record, sides: Sides<'_>, judged: bool) -> Evidence {
        let [candidate, stable] = [Counters::of(sides.candidate), Counters::of(sides.stable)];
        let tallies = self.tallies();
        let step_tally = tallies[0].since(&self.step_began_tally);
        let step = record.state.step().and_then(|step| record.plan.steps.get(step));
        // Chance alone decides, but for a cohort; and nobody compares where stable gets nothing.
        let alone = match step {
            Some(Step::Cohort { .. }) => true,
            Some(Step::Flip { holdback, .. }) => *holdback <= 0.0,
            _ => false,
        };
        let all = candidate.all.since(self.step_began.all);
        // Of a sticky service's clients the guard counts one failure each, and here requests are counted.
        let as_sent = alone || sides.service.config.sticky.is_some();
        let failures = if as_sent { all.failures } else { step_tally.failures().0 };
        let answered = candidate.answered.saturating_sub(self.step_began.answered);
        let requests = if alone { all.requests } else { answered };
        let lately = match (self.stable_looks.front(), self.stable_looks.back()) {
            (Some(first), Some(last)) => last.since(*first),
            _ => Count::default(),
        };
        let before = Count { requests: record.receipt.requests, failures: record.receipt.failures };
        let in_all = candidate.all.since(self.began[0].all).plus(before);
        // Stable of today, as far as it has anything to say.
        let stable = stable.all.since(self.began[1].all).plus(record.usual);
        let beside = sides.baseline.filter(|_| self.reference == Reference::Baseline);
        let baseline = beside.map(|backend| Counters::of(backend).all.since(self.compared_since[1].all));
        let excess = match &record.baseline {
            None => in_all.beyond(stable),
            Some(known) => known.excess + self.excess(record, sides),
        };
        Evidence {
            ready: sides.fresh().all(|backend| self.is_ready(backend, sides.service)),
            judged,
            stable_alarm: sides.service.watch.is_rescue_suspended(),
            step: Count { requests: requests.max(failures), failures },
            candidate: in_all,
            stable,
            baseline,
            excess,
            stable_lately: lately,
            tallies,
            step_tally,
            likeness: Likeness::default(),
            gates: self.gates.standings(),
            frozen: None,
        }
    }

    /// What the rollout has cost since this process took it up.
    pub(super) fn receipt(&self, candidate: &Backend) -> Receipt {
        let (began, now) = (self.began[0], Counters::of(candidate));
        let Count { requests, failures } = now.all.since(began.all);
        let failures = failures + now.unanswered.saturating_sub(began.unanswered);
        let rescued = now.rescued.saturating_sub(began.rescued);
        let view = self.trial.as_ref().map(|trial| &trial.view);
        Receipt {
            requests,
            failures,
            rescued,
            seen_by_clients: failures.saturating_sub(rescued),
            clients: view.and_then(|view| view.clients),
            first_failure: view.and_then(|view| view.first.as_ref()).map(|first| first.at.clone()),
            restored_after_ms: None,
        }
    }

    /// Checks tell, where there are any; else whether a connection was accepted.
    fn is_ready(&self, fresh: &Backend, service: &Service) -> bool {
        let config = service.config.backends.iter().find(|backend| backend.name == fresh.name);
        let checked = config.is_some_and(|backend| backend.health.is_some());
        let is_up = |endpoint: &Arc<Endpoint>| {
            let notes = endpoint.health.notes();
            let checks = if checked { notes.checks > 0 && notes.check_error.is_none() } else { self.connected };
            drop(notes);
            checks && endpoint.health.is_available()
        };
        !fresh.endpoints.is_empty() && fresh.endpoints.iter().all(is_up)
    }

    /// Tries whether the endpoints of what is new accept connections, again and again.
    pub(super) async fn connect(&mut self, sides: Sides<'_>) {
        if self.connecting.as_ref().is_some_and(|connecting| !connecting.is_finished()) {
            return;
        }
        if let Some(connecting) = self.connecting.take() {
            self.connected = connecting.await.unwrap_or(false);
        }
        if self.connected {
            return;
        }
        let endpoints = sides.fresh().flat_map(|backend| &backend.endpoints);
        let addresses: Vec<_> = endpoints.map(|endpoint| endpoint.identity.address).collect();
        self.connecting = Some(tokio::spawn(async move {
            for address in addresses {
                if !matches!(timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await, Ok(Ok(_))) {
                    return false;
                }
            }
            true
        }));
    }
}

impl Drop for Sight {
    fn drop(&mut self) {
        if let Some(connecting) = &self.connecting {
            connecting.abort();
        }
    }
}
