//! The guard at work: on the control thread, woken by the first failure that is reported.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use foldhash::fast::RandomState;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use super::absolute::{self, Tally, Window};
use super::evidence::{RouteView, TrialView};
use super::judge::{ALPHA, Alarm, Evidence, Failure};
use super::report::Report;
use super::row::Row;
use super::slowness::{Slowness, for_age};
use super::standstill::{Moments, Standstills};
use super::trial::{Guilty, Trial};
use crate::analysis::{Attempts, RatioTally, Side};
use crate::config::ServiceConfig;
use crate::control::Control;
use crate::journal::{Fact, PastDrains, TrialMemory};
use crate::model::{BackendName, Drain, FailureKind, GuardMode, ServiceName};
use crate::observe::{BackendTotals, CodeClass, GuardMetrics};
use crate::state::{Backend, Service, Snapshot};

/// Between two looks at what isn't told by failures.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Failures taken at once.
const BATCH_MAX: usize = 256;
/// Questions that may wait.
const QUESTIONS_MAX: usize = 64;
/// Between two notes of how far trials have come.
const MEMORY_INTERVAL: Duration = Duration::from_secs(30);
/// An alarm about stable ends when nothing new speaks against it for so long.
const ALARM_TIME: Duration = Duration::from_secs(60);
/// The longest pause before another probation.
const PAUSE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Failures in a row that are enough, where the service doesn't say.
const CONSECUTIVE: u32 = 5;
/// Requests without which probation has proven nothing.
const PROBATION_REQUESTS_MIN: u64 = 100;

type Key = (ServiceName, BackendName);

/// What the guard can be asked.
#[derive(Debug)]
enum Question {
    Trials(oneshot::Sender<Vec<TrialView>>),
    Trial(Key, oneshot::Sender<Option<TrialSight>>),
    Remember(oneshot::Sender<()>),
}

/// One trial, for those who judge by other measures than the guard's.
#[derive(Debug, Clone)]
pub struct TrialSight {
    /// Tells trials apart: another one counts from nothing.
    pub number: u64,
    /// What the candidate is compared with.
    pub reference: BackendName,
    /// Failures so far, in the order of [`FailureKind::ALL`].
    pub tallies: [RatioTally; 4],
    pub view: TrialView,
}

/// A verdict of the guard, carried out or, where it only observes, told.
#[derive(Debug, Clone)]
pub struct Convicted {
    pub service: ServiceName,
    pub backend: BackendName,
    pub revision: Arc<str>,
    pub reason: String,
    /// A [`TrialView`].
    pub evidence: serde_json::Value,
}

/// Asks the guard.
#[derive(Debug, Clone)]
pub struct Questions(mpsc::Sender<Question>);

impl Questions {
    /// All trials under way; none when the guard has ended, or is asked too much.
    pub async fn trials(&self) -> Vec<TrialView> {
        self.ask(Question::Trials).await.unwrap_or_default()
    }

    /// How one candidate's trial stands; none when there is none, or the guard is asked too much.
    pub async fn trial(&self, service: ServiceName, backend: BackendName) -> Option<TrialSight> {
        self.ask(|answer| Question::Trial((service, backend), answer)).await.flatten()
    }

    /// Has the guard hand the journal how far all trials have come: the process is about to end.
    pub async fn remember(&self) {
        self.ask(Question::Remember).await;
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Option<T> {
        let (answer, heard) = oneshot::channel();
        self.0.try_send(question(answer)).ok()?;
        heard.await.ok()
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Guard {
    control: Arc<Control>,
    metrics: Arc<GuardMetrics>,
    reports: mpsc::Receiver<Report>,
    questions: mpsc::Receiver<Question>,
    candidates: HashMap<Key, Candidate, RandomState>,
    services: HashMap<ServiceName, Watched, RandomState>,
    followed: Followed,
    /// Of present revisions; they outlive trials.
    records: HashMap<Key, Record>,
    /// From before the last restart; each is taken up once.
    memories: HashMap<Key, TrialMemory>,
    /// Trials begun so far.
    trials: u64,
    /// Whoever wants to know of verdicts. One that finds no room is seen by what it does.
    convicted: mpsc::Sender<Convicted>,
    remembered: Instant,
}

/// What is known of one backend that is compared with stable, at its present revision.
#[derive(Debug)]
struct Candidate {
    number: u64,
    revision: Arc<str>,
    /// What it is compared with: stable or, in a rollout, a baseline. Evidence begins anew with another one.
    reference: BackendName,
    /// What has brought it; `None`: it was there before any.
    rollout: Option<u64>,
    /// Whose routes the trial knows.
    config: Arc<ServiceConfig>,
    trial: Trial,
    /// As its counters stood when the trial began.
    began: Counts,
    /// Looks since it first took requests.
    looks: u32,
    /// What would have been done has been said.
    told: bool,
    /// A verdict could not be carried out; not before then again.
    refused_until: Option<Instant>,
    window: Window,
    row: Option<Row>,
    slow: Moments,
}

impl Candidate {
    /// It is of what runs there now. A revision that is deployed again is judged anew: what it did the last time had its
    /// consequence then.
    fn is_of(&self, service: &Service, backend: &Backend) -> bool {
        let rollout = rollout(service, backend);
        self.revision == backend.revision && (rollout.is_none() || rollout == self.rollout)
    }

    /// Whatever is found now has been said, or can't be done.
    fn is_silenced(&self) -> bool {
        self.told || self.refused_until.is_some_and(|until| Instant::now() < until)
    }
}

/// What a revision has behind it when another trial of it begins.
#[derive(Debug)]
struct Record {
    revision: Arc<str>,
    standstills: Standstills,
    /// Looks since it first took requests.
    looks: u32,
    /// How often the guard has drained it.
    drains: u32,
}

impl Record {
    fn new(revision: Arc<str>) -> Self {
        Self { revision, standstills: Standstills::default(), looks: 0, drains: 0 }
    }

    fn drained(past: PastDrains) -> (Key, Self) {
        let record = Self { drains: past.times, ..Self::new(past.revision.into()) };
        ((past.service, past.backend), record)
    }
}

/// What is known of one service.
#[derive(Debug, Default)]
struct Watched {
    slowness: Slowness,
    /// Of a rollout's baseline, as long as a candidate is compared with it.
    baseline: Option<Slowness>,
    stable: Window,
    /// Stable's share of failures when it last took requests.
    usual: f64,
    /// Since when stable is the bad one.
    alarm: Option<Instant>,
    /// A request has reached it.
    is_used: bool,
}

/// Whom to look at each time. Of thousands of services most may have no requests, and so nothing to be seen; they are
/// looked at only when something else has changed.
#[derive(Debug, Default)]
struct Followed {
    /// The snapshot and the live mode that the rest follows; `None`: nothing was looked at yet.
    of: Option<(u64, Option<GuardMode>)>,
    /// By the snapshot's index.
    services: Vec<bool>,
    drained: Vec<usize>,
}

/// A backend's counters, as far as a trial tells of them.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    requests: u64,
    failures: u64,
    rescued: u64,
}

impl Counts {
    fn of(totals: &BackendTotals) -> Self {
        Self {
            requests: totals.requests(),
            failures: totals.errors() + totals.codes[CodeClass::None as usize],
            rescued: totals.rescues_answered,
        }
    }
}

impl Guard {
    /// A guard that takes up the trials of before a restart, and knows how often it has drained whom.
    #[must_use]
    pub fn new(
        control: Arc<Control>,
        metrics: Arc<GuardMetrics>,
        reports: mpsc::Receiver<Report>,
        memories: Vec<TrialMemory>,
        past: Vec<PastDrains>,
        convicted: mpsc::Sender<Convicted>,
    ) -> (Self, Questions) {
        let (ask, questions) = mpsc::channel(QUESTIONS_MAX);
        let key = |memory: &TrialMemory| (memory.service.clone(), memory.backend.clone());
        let guard = Self {
            control,
            metrics,
            reports,
            questions,
            candidates: HashMap::default(),
            services: HashMap::default(),
            followed: Followed::default(),
            records: past.into_iter().map(Record::drained).collect(),
            memories: memories.into_iter().map(|memory| (key(&memory), memory)).collect(),
            trials: 0,
            convicted,
            remembered: Instant::now(),
        };
        (guard, Questions(ask))
    }

    /// Judges for as long as the process lives.
    pub async fn run(mut self) {
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut batch, mut working) = (Vec::with_capacity(BATCH_MAX), true);
        loop {
            tokio::select! {
                taken = self.reports.recv_many(&mut batch, BATCH_MAX), if working => {
                    // Nobody works any more, but the last question comes after that.
                    working = taken > 0;
                    batch.drain(..).for_each(|report| self.take(&report));
                }
                _ = look.tick() => self.look(),
                question = self.questions.recv() => match question {
                    None => return,
                    Some(Question::Trials(answer)) => drop(answer.send(self.views())),
                    Some(Question::Trial(key, answer)) => drop(answer.send(self.sight(&key))),
                    Some(Question::Remember(done)) => {
                        self.remember();
                        let _ = done.send(());
                    }
                },
            }
        }
    }

    /// What follows from a verdict about this service.
    fn mode(&self, service: &Service) -> GuardMode {
        let live = *self.control.guard().borrow();
        live.map_or(service.config.guard, |live| live.min(service.config.guard))
    }

    fn take(&mut self, report: &Report) {
        let snapshot = self.control.store().current();
        let name = report.service.name();
        // Nearly always where it was: there may be thousands, and as many failures a second.
        let same = snapshot.services.get(report.index).filter(|service| service.name() == name);
        let Some(service) = same.or_else(|| snapshot.service(name.as_str())) else { return };
        if self.mode(service) == GuardMode::Off {
            return;
        }
        let drawn = &report.service;
        if report.backend != drawn.config.stable {
            self.judge(service, report, report.backend, Side::Candidate);
        }
        // Of those that are compared with it: that is stable or, of a rollout's candidate, maybe a baseline.
        let failed = &drawn.backends[report.backend].name;
        for (index, candidate) in drawn.backends.iter().enumerate() {
            if index != drawn.config.stable && drawn.reference(&candidate.name).name == *failed {
                self.judge(service, report, index, Side::Stable);
            }
        }
    }

    /// Counts a failure in the trial of one candidate. `candidate`: its index when the request was drawn.
    fn judge(&mut self, service: &Service, report: &Report, candidate: usize, side: Side) {
        let drawn = &report.service.backends[candidate];
        let reference = report.service.reference(&drawn.name);
        let (weight, other) = (drawn.effective.value(), reference.effective.value());
        let Some(backend) = service.backend(drawn.name.as_str()) else { return };
        let is_same = backend.revision == drawn.revision && service.reference(&drawn.name).name == reference.name;
        // One that was sent before the rollout that is under way says nothing about what that has brought.
        let now = rollout(service, backend);
        let is_same = is_same && (now.is_none() || now == rollout(&report.service, drawn));
        if weight == 0.0 || other == 0.0 || !is_same || backend.is_drained() {
            return;
        }
        let unix_ms = report.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let failure = Failure {
            side,
            kind: report.kind,
            share: weight / (weight + other),
            key: report.key,
            request_id: report.request_id.clone(),
            endpoint: report.endpoint,
            unix_ms,
        };
        let route = report.route.and_then(|route| report.service.config.route_ids.get(route as usize)).copied();
        let mode = self.mode(service);
        let known = self.candidate(service, backend);
        if side == Side::Candidate && report.kind == FailureKind::Slow {
            known.slow.note(unix_ms);
        }
        let (guilty, alarm) = known.trial.observe(&failure, route);
        // A guard that observes has nobody else asked, either.
        backend.watch.set_suspect(mode == GuardMode::Drain && known.trial.is_suspect());
        backend.watch.set_e_value(known.trial.e_value());
        // A baseline that fails more often than a candidate is no reason to think ill of stable.
        if let Some(alarm) = alarm.filter(|_| reference.name == report.service.stable().name) {
            known.trial.restart_alarm();
            self.raise_alarm(service, backend, alarm);
        }
        if let Some(guilty) = guilty {
            self.found_guilty(service, backend, guilty);
        } else if side == Side::Candidate && report.kind == FailureKind::Server {
            self.judge_row(service, backend, report.key);
        }
    }

    /// Whether a candidate's last requests have all failed, on all of its endpoints, while what it is compared with
    /// answered.
    fn judge_row(&mut self, service: &Service, backend: &Backend, key: Option<u64>) {
        let failures = || backend.endpoints.iter().filter(|e| e.health.is_available()).map(|e| e.health.failures());
        // Where one of several endpoints is fine, the others are ejected instead.
        let length = if failures().any(|failures| failures == 0) { 0 } else { failures().sum() };
        let reference = service.reference(&backend.name);
        let answers: Attempts = reference.endpoints.iter().map(|endpoint| endpoint.health.attempts()).sum();
        let consecutive = service.config.ejection.map_or(CONSECUTIVE, |ejection| ejection.consecutive);
        let known = self.candidate(service, backend);
        let Some(meanwhile) = Row::fail(&mut known.row, length, consecutive, answers, key) else { return };
        if known.is_silenced() {
            return;
        }
        let evidence = known.trial.evidence();
        let view = self.view_of(service, backend, &evidence, Guilty::OfAll);
        let reason = format!(
            "{length} requests in a row failed, while {} answered {} of {}",
            reference.name,
            meanwhile.answered,
            meanwhile.ended()
        );
        self.convict(service, backend, &reason, serde_json::to_value(&view).unwrap_or_default());
    }

    /// The trial of a backend's present revision, begun if there is none.
    fn candidate(&mut self, service: &Service, backend: &Backend) -> &mut Candidate {
        let key = (service.name().clone(), backend.name.clone());
        let behind = self.records.get(&key).filter(|record| record.revision == backend.revision);
        let (looks, drains) = behind.map_or((0, 0), |record| (record.looks, record.drains));
        let (memories, candidates, trials) = (&mut self.memories, &mut self.candidates, &mut self.trials);
        if candidates.get(&key).is_some_and(|known| !known.is_of(service, backend)) {
            candidates.remove(&key);
            backend.watch.set_suspect(false);
            backend.watch.set_e_value(1.0);
        }
        let reference = &service.reference(&backend.name).name;
        let known = candidates.entry(key).or_insert_with_key(|key| {
            let memory = memories.remove(key).filter(|memory| *memory.revision == *backend.revision);
            *trials += 1;
            Candidate {
                number: *trials,
                revision: Arc::clone(&backend.revision),
                reference: reference.clone(),
                rollout: rollout(service, backend),
                config: Arc::clone(&service.config),
                trial: Trial::new(
                    level(backend, drains),
                    &service.config.judged_routes,
                    memory.map_or([0; 4], |memory| memory.failures),
                ),
                began: Counts::of(&backend.metrics.totals()),
                looks,
                told: false,
                refused_until: None,
                window: Window::default(),
                row: None,
                slow: Moments::default(),
            }
        });
        if !Arc::ptr_eq(&known.config, &service.config) {
            known.trial.take_up(&service.config.route_ids, &service.config.judged_routes);
            known.config = Arc::clone(&service.config);
        }
        if known.reference != *reference {
            *trials += 1;
            known.number = *trials;
            known.reference = reference.clone();
            known.trial.begin_anew();
            known.began = Counts::of(&backend.metrics.totals());
            (known.row, known.slow) = (None, Moments::default());
        }
        known
    }

    fn found_guilty(&mut self, service: &Service, backend: &Backend, guilty: Guilty) {
        // Cold as it is, it is worse than stable: that is what it is there for. It goes when it is dead.
        if service.is_baseline(&backend.name) {
            return;
        }
        let key = (service.name().clone(), backend.name.clone());
        let Some(known) = self.candidates.get(&key).filter(|known| !known.is_silenced()) else { return };
        let mut evidence = known.trial.evidence_of(guilty);
        let is_slow = evidence.weightiest == FailureKind::Slow;
        let one_moment = is_slow && known.slow.are_one();
        if is_slow && !one_moment && guilty == Guilty::OfAll && known.slow.are_few(known.window.recent().requests) {
            evidence.set_aside(FailureKind::Slow);
            if evidence.e_value * evidence.alpha < 1.0 {
                return;
            }
        }
        let view = self.view_of(service, backend, &evidence, guilty);
        let (reason, told) = (view.reason(), serde_json::to_value(&view).unwrap_or_default());
        // One that is on probation has no second chance to lose.
        if one_moment && backend.drain.is_none() && self.mode(service) == GuardMode::Drain {
            self.suspend(service, backend, &reason, told);
        } else {
            self.convict(service, backend, &reason, told);
        }
    }

    /// Takes the requests of a backend that stands still away for a while; drains it where that happens again and again.
    fn suspend(&mut self, service: &Service, backend: &Backend, reason: &str, evidence: serde_json::Value) {
        let key = (service.name().clone(), backend.name.clone());
        // What is slow by now was sent before.
        let now = Instant::now();
        let sent = now.checked_sub(service.watch.slow_after().unwrap_or_default()).unwrap_or(now);
        let looks = self.candidates.get(&key).map_or(0, |known| known.looks);
        let record = self.record(&key, &backend.revision);
        record.looks = looks;
        let Some(pause) = record.standstills.again(sent) else {
            self.convict(service, backend, &format!("it stands still again and again: {reason}"), evidence);
            return;
        };
        let times = backend.drain.as_ref().map_or(0, |drain| drain.times);
        let until = Some(SystemTime::now() + pause);
        let drain = drain(&key, backend, format!("it stands still: {reason}"), times, until);
        if self.control.suspend(drain, pause.as_millis() as u64, evidence) {
            self.metrics.suspensions.fetch_add(1, Ordering::Relaxed);
            self.candidates.remove(&key);
            backend.watch.set_suspect(true);
        }
    }

    /// What a revision has behind it.
    fn record(&mut self, key: &Key, revision: &Arc<str>) -> &mut Record {
        if self.records.get(key).is_some_and(|record| record.revision != *revision) {
            self.records.remove(key);
        }
        self.records.entry(key.clone()).or_insert_with(|| Record::new(Arc::clone(revision)))
    }

    /// Gives those that stood still their requests back.
    fn resume(&mut self, snapshot: &Snapshot) {
        let drained = self.followed.drained.iter().filter_map(|index| snapshot.services.get(*index));
        for backend in drained.flat_map(|service| &service.backends) {
            let Some(drain) = &backend.drain else { continue };
            if drain.until.is_some_and(|until| until <= SystemTime::now()) {
                backend.watch.set_suspect(false);
                let key = (drain.service.clone(), drain.backend.clone());
                if let Some(record) = self.records.get_mut(&key) {
                    record.standstills.resumed(Instant::now());
                }
                self.control.resume(drain);
            }
        }
    }

    /// Drains a backend, or says that it would be.
    fn convict(&mut self, service: &Service, backend: &Backend, reason: &str, evidence: serde_json::Value) {
        let key = (service.name().clone(), backend.name.clone());
        let mode = self.mode(service);
        let is_told_already = self.candidates.get(&key).is_some_and(|known| known.told);
        if mode != GuardMode::Off && !is_told_already {
            // A queue that is full is a rollout's loss of the reason, not of the verdict.
            let (reason, evidence) = (reason.to_owned(), evidence.clone());
            let (service, backend, revision) = (key.0.clone(), key.1.clone(), Arc::clone(&backend.revision));
            let _ = self.convicted.try_send(Convicted { service, backend, revision, reason, evidence });
        }
        match mode {
            GuardMode::Off => {}
            GuardMode::Observe => {
                let Some(known) = self.candidates.get_mut(&key) else { return };
                if std::mem::replace(&mut known.told, true) {
                    return;
                }
                self.metrics.would_drain.fetch_add(1, Ordering::Relaxed);
                let (service, backend, revision) =
                    (service.name().to_string(), backend.name.to_string(), backend.revision.to_string());
                warn!(%service, %backend, reason, "the guard would drain a backend, and only observes");
                self.control.note(Fact::WouldDrain { service, backend, revision, reason: reason.to_owned(), evidence });
            }
            GuardMode::Drain => {
                let before = backend.drain.as_ref().map_or(0, |drain| drain.times);
                let times = self.record(&key, &backend.revision).drains.max(before) + 1;
                let drain = drain(&key, backend, reason.to_owned(), times, None);
                if self.control.drain_by_guard(drain, evidence) {
                    self.record(&key, &backend.revision).drains = times;
                    self.metrics.drains.fetch_add(1, Ordering::Relaxed);
                    self.candidates.remove(&key);
                    // Those that still wait for it are better off elsewhere.
                    backend.watch.set_suspect(true);
                } else if let Some(known) = self.candidates.get_mut(&key) {
                    known.refused_until = Some(Instant::now() + LOOK_INTERVAL);
                }
            }
        }
    }

    fn raise_alarm(&mut self, service: &Service, backend: &Backend, alarm: Alarm) {
        let watched = self.services.entry(service.name().clone()).or_default();
        if watched.alarm.replace(Instant::now()).is_some() {
            return;
        }
        service.watch.suspend_rescue(true);
        self.metrics.alarms.fetch_add(1, Ordering::Relaxed);
        let (name, candidate, stable) =
            (service.name().to_string(), backend.name.to_string(), service.stable().name.to_string());
        warn!(service = %name, backend = %candidate, %stable, "stable fails more often than a candidate");
        let evidence = serde_json::json!({ "e_value": alarm.e_value });
        self.control.note(Fact::StableAlarm { service: name, backend: candidate, stable, evidence });
    }

    /// What isn't told by failures: what is slow, who fails with nothing to compare with, whose pause is over.
    fn look(&mut self) {
        let snapshot = self.control.store().current();
        let live = *self.control.guard().borrow();
        let of = Some((snapshot.version, live));
        let before = self.followed.of;
        if before != of {
            self.forget(&snapshot);
            self.follow(&snapshot);
            self.followed.of = of;
        }
        for index in snapshot.used.iter() {
            self.followed.services[index] = true;
        }
        self.resume(&snapshot);
        for (index, service) in snapshot.services.iter().enumerate() {
            // Another mode is another look at all of them.
            let is_new = before.is_none_or(|(version, mode)| service.version > version || mode != live);
            if !is_new && !self.followed.services[index] {
                continue;
            }
            let mode = self.mode(service);
            if mode == GuardMode::Off || service.backends.len() < 2 {
                service.watch.set_slow_after(None);
                // Nobody would ever take these back.
                service.watch.suspend_rescue(false);
                service.backends.iter().for_each(|backend| backend.watch.set_suspect(false));
                self.services.remove(service.name());
                continue;
            }
            self.look_at(service, self.followed.services[index]);
            if mode == GuardMode::Drain {
                self.look_at_probation(service);
            } else {
                service.backends.iter().for_each(|backend| backend.watch.set_suspect(false));
            }
        }
        if self.remembered.elapsed() >= MEMORY_INTERVAL {
            self.remember();
        }
    }

    /// Decides whom every look is at, as far as is known before requests come.
    fn follow(&mut self, snapshot: &Snapshot) {
        let is_drained = |service: &Service| service.backends.iter().any(|backend| backend.drain.is_some());
        let services = || snapshot.services.iter();
        // What a request once reached may still change with time alone, and so does what is drained.
        let is_used = |service: &Service| self.services.get(service.name()).is_some_and(|watched| watched.is_used);
        let followed = services().map(|service| is_used(service) || is_drained(service)).collect();
        let drained = services().enumerate().filter(|(_, service)| is_drained(service)).map(|(index, _)| index);
        let drained = drained.collect();
        (self.followed.services, self.followed.drained) = (followed, drained);
    }

    fn look_at(&mut self, service: &Service, is_used: bool) {
        let totals: Vec<BackendTotals> = service.backends.iter().map(|b| b.metrics.totals()).collect();
        let stable_totals = &totals[service.config.stable];
        let judged = |backend: &&Backend| backend.name != service.stable().name && !backend.effective.is_zero();
        let is_baseline = |backend: &Backend| service.is_baseline(&backend.name);
        let (mut youngest, mut youngest_other) = (u32::MAX, u32::MAX);
        for backend in service.backends.iter().filter(judged) {
            let known = self.candidate(service, backend);
            known.looks = known.looks.saturating_add(1);
            youngest = youngest.min(known.looks);
            if !is_baseline(backend) && !is_baseline(service.reference(&backend.name)) {
                youngest_other = youngest_other.min(known.looks);
            }
        }
        let watched = self.services.entry(service.name().clone()).or_default();
        watched.is_used |= is_used;
        let limit = for_age(watched.slowness.look(&stable_totals.answer), youngest);
        // One that is as cold as the candidate tells what is slow better than any allowance for the cold.
        let answers = service.backends.iter().position(is_baseline).map(|index| &totals[index].answer);
        watched.baseline = answers.map(|now| watched.baseline.take().unwrap_or_else(|| Slowness::since(now)));
        let beside = watched.baseline.as_mut().zip(answers).and_then(|(known, answers)| known.look(answers));
        service.watch.set_slow_after(beside.map_or(limit, |beside| for_age(Some(beside), youngest_other)));
        watched.stable.look(tally(stable_totals));
        let recent = watched.stable.recent();
        if recent.requests > 0 {
            watched.usual = recent.share();
        }
        if watched.alarm.is_some_and(|since| since.elapsed() >= ALARM_TIME) {
            watched.alarm = None;
            service.watch.suspend_rescue(false);
            let (name, stable) = (service.name().to_string(), service.stable().name.to_string());
            info!(service = %name, %stable, "stable is no worse than its candidates any more");
            self.control.note(Fact::StableAlarmEnded { service: name, stable });
        }
        for (backend, totals) in service.backends.iter().zip(&totals).filter(|(backend, _)| judged(backend)) {
            self.candidate(service, backend).window.look(tally(totals));
            let key = (service.name().clone(), backend.name.clone());
            let watched = &self.services[service.name()];
            // Without anybody at stable's, there is nowhere to go, and whatever stable was like is no measure.
            let known = self.candidates.get(&key).filter(|known| !known.is_silenced());
            let found = known.filter(|_| service.stable().is_available()).and_then(|known| {
                absolute::verdict(&known.window, &watched.stable, watched.usual)
                    .map(|reason| (reason, known.trial.evidence()))
            });
            if let Some((reason, evidence)) = found {
                let view = self.view_of(service, backend, &evidence, Guilty::OfAll);
                self.convict(service, backend, &reason, serde_json::to_value(&view).unwrap_or_default());
            }
        }
    }

    /// Lets drained backends try again, and those that did well go.
    fn look_at_probation(&self, service: &Service) {
        let Some(config) = service.config.probation else { return };
        for backend in &service.backends {
            let Some(drain) = backend.drain.as_ref().filter(|drain| drain.by.is_none() && drain.until.is_none()) else {
                continue;
            };
            let since = drain.at.elapsed().unwrap_or_default();
            let is_over = if drain.probation.is_some() {
                let key = (service.name().clone(), backend.name.clone());
                let requests = Counts::of(&backend.metrics.totals()).requests;
                let taken = self.candidates.get(&key).map_or(0, |known| requests.saturating_sub(known.began.requests));
                since >= config.pass && taken >= PROBATION_REQUESTS_MIN
            } else {
                let doublings = drain.times.saturating_sub(1).min(20);
                since >= (config.after * (1 << doublings)).min(PAUSE_MAX)
            };
            if is_over {
                // Elsewhere, since it waits for the disk, which failures mustn't.
                let (control, drain) = (Arc::clone(&self.control), Arc::clone(drain));
                tokio::spawn(async move {
                    let moved = match drain.probation {
                        Some(_) => control.end_probation(&drain).await,
                        None => control.begin_probation(&drain, config.share).await,
                    };
                    if let Err(error) = moved {
                        let (service, backend) = (&drain.service, &drain.backend);
                        warn!(%service, %backend, %error, "probation has to wait");
                    }
                });
            }
        }
    }

    /// Lets go of what is no longer there to be judged.
    fn forget(&mut self, snapshot: &Snapshot) {
        let services: HashMap<&ServiceName, &Service, RandomState> =
            snapshot.services.iter().map(|service| (service.name(), &**service)).collect();
        self.services.retain(|name, _| services.contains_key(name));
        self.records.retain(|(name, _), _| services.contains_key(name));
        self.candidates.retain(|(service, backend), known| {
            let service = services.get(service).copied();
            let now = service.and_then(|service| service.backend(backend.as_str()));
            let stays = service.zip(now).is_some_and(|(of, now)| known.is_of(of, now) && !now.is_drained());
            if let Some(gone) = now.filter(|now| !stays && now.drain.is_none()) {
                gone.watch.set_suspect(false);
                gone.watch.set_e_value(1.0);
            }
            stays
        });
    }

    fn remember(&mut self) {
        self.remembered = Instant::now();
        let memories = self.candidates.iter().map(|((service, backend), known)| TrialMemory {
            service: service.clone(),
            backend: backend.clone(),
            revision: known.revision.to_string(),
            failures: known.trial.counted(),
        });
        // One that hasn't been taken up yet isn't forgotten.
        let memories = memories.chain(self.memories.values().cloned()).collect();
        if let Ok(journal) = self.control.journal() {
            journal.remember(memories);
        }
    }

    fn sight(&self, key: &Key) -> Option<TrialSight> {
        let snapshot = self.control.store().current();
        let service = snapshot.service(key.0.as_str())?;
        let backend = service.backend(key.1.as_str())?;
        // What was there before isn't forgotten before the next look.
        let known = self.candidates.get(key).filter(|known| known.is_of(service, backend))?;
        Some(TrialSight {
            number: known.number,
            reference: known.reference.clone(),
            tallies: known.trial.tallies().clone(),
            view: self.view_of(service, backend, &known.trial.evidence(), Guilty::OfAll),
        })
    }

    fn views(&self) -> Vec<TrialView> {
        let snapshot = self.control.store().current();
        let view = |((service, backend), known): (&Key, &Candidate)| {
            let service = snapshot.service(service.as_str())?;
            let backend = service.backend(backend.as_str())?;
            Some(self.view_of(service, backend, &known.trial.evidence(), Guilty::OfAll))
        };
        let mut views: Vec<TrialView> = self.candidates.iter().filter_map(view).collect();
        views.sort_by(|a, b| (&a.service, &a.backend).cmp(&(&b.service, &b.backend)));
        views
    }

    fn view_of(&self, service: &Service, backend: &Backend, evidence: &Evidence, guilty: Guilty) -> TrialView {
        let reference = service.reference(&backend.name).name.as_str();
        let mut view =
            TrialView::new(service.name().as_str(), backend.name.as_str(), &backend.revision, reference, evidence);
        view.slow_after_ms = service.watch.slow_after().map(|limit| limit.as_secs_f64() * 1000.0);
        let key = (service.name().clone(), backend.name.clone());
        let Some(known) = self.candidates.get(&key) else { return view };
        let heaviest = known.trial.weightiest_route(evidence.weightiest);
        view.route = heaviest.map(|heaviest| {
            let route = match guilty {
                Guilty::OfAll => heaviest.route,
                Guilty::OnRoute(route) => Some(route),
            };
            let text = route.and_then(|route| service.config.route(route));
            RouteView {
                route: text.map_or_else(|| "any".to_owned(), ToString::to_string),
                candidate: heaviest.candidate,
                stable: heaviest.stable,
                judged: guilty != Guilty::OfAll,
            }
        });
        let now = Counts::of(&backend.metrics.totals());
        view.requests = now.requests.saturating_sub(known.began.requests);
        view.rescued = now.rescued.saturating_sub(known.began.rescued);
        view.seen_by_clients = now.failures.saturating_sub(known.began.failures).saturating_sub(view.rescued);
        view
    }
}

/// The rollout under way that brings what runs in a backend.
fn rollout(service: &Service, backend: &Backend) -> Option<u64> {
    service.rollout().filter(|open| open.candidate == backend.name).map(|open| open.id)
}

/// The guard's word about what runs in a backend now.
fn drain((service, name): &Key, backend: &Backend, reason: String, times: u32, until: Option<SystemTime>) -> Drain {
    Drain {
        service: service.clone(),
        backend: name.clone(),
        revision: backend.revision.to_string(),
        by: None,
        at: SystemTime::now(),
        reason,
        times,
        probation: None,
        until,
    }
}

/// The level at which a backend is judged that the guard has drained so often. One that comes back has less to spend each
/// time, so that all its trials together stay below the first level (the sum of `1/(n(n+1))` is 1).
fn level(backend: &Backend, drains: u32) -> f64 {
    let before = backend.drain.as_ref().map_or(0, |drain| drain.times).max(drains);
    match f64::from(before) {
        0.0 => ALPHA,
        n => ALPHA / (n * (n + 1.0)),
    }
}

fn tally(totals: &BackendTotals) -> Tally {
    // What found no place there never came to it.
    let turned_away = totals.queue_full + totals.queue_timeouts;
    Tally {
        requests: totals.requests().saturating_sub(turned_away),
        failures: totals.errors().saturating_sub(turned_away),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::model::{Deployment, OpenRollout};
    use crate::state::{Change, DeployChange, History, LiveChanges, Store};
    use crate::tls::ServerTls;

    /// Of a shop whose canary gets 5 %.
    fn config() -> Arc<Config> {
        let file = "[[listeners]]\naddress = \"127.0.0.1:0\"\n\
                    [services.shop.backends.blue]\nweight = 95\nendpoints = [\"http://127.0.0.1:1\"]\n\
                    [services.shop.backends.canary]\nweight = 5\nendpoints = [\"http://127.0.0.1:2\"]\n\
                    [services.shop.backends.fresh]\nweight = 0\nendpoints = [\"http://127.0.0.1:3\"]\n";
        Arc::new(crate::config::parse(file, std::path::Path::new("proxy.toml"), &|_| None, None).unwrap().config)
    }

    fn guard() -> Guard {
        let history = History::Known(LiveChanges::default());
        let store = Store::new(&config(), HashMap::new(), 1, ServerTls::new().unwrap(), history).unwrap().0;
        let control = Control::new(Arc::new(store), Err("there is none".to_owned()), None);
        let (_, reports) = mpsc::channel(1);
        Guard::new(Arc::new(control), Arc::default(), reports, Vec::new(), Vec::new(), mpsc::channel(1).0).0
    }

    fn shop(guard: &Guard) -> Arc<Service> {
        Arc::clone(&guard.control.store().current().services[0])
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_stood_still_is_no_younger_for_it() {
        let mut guard = guard();
        guard.control.store().current().used.mark(0);
        (0..40).for_each(|_| guard.look());
        let before = shop(&guard);
        assert_eq!(guard.candidate(&before, &before.backends[1]).looks, 40);
        guard.suspend(&before, &before.backends[1], "it answers nothing", serde_json::Value::Null);
        let suspended = shop(&guard);
        assert!(suspended.backends[1].is_drained() && guard.candidates.is_empty());
        guard.control.resume(suspended.backends[1].drain.as_ref().unwrap());
        guard.look();
        let resumed = shop(&guard);
        assert!(!resumed.backends[1].is_drained());
        assert_eq!(guard.candidate(&resumed, &resumed.backends[1]).looks, 41);
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_nobody_asks_for_is_looked_at_when_something_changes() {
        let mut guard = guard();
        let looks = |guard: &mut Guard| {
            let shop = shop(guard);
            guard.candidate(&shop, &shop.backends[1]).looks
        };
        let reload = |guard: &Guard| {
            let reloaded = Change::Config { config: config(), resolved: HashMap::new() };
            assert!(guard.control.store().apply(reloaded).is_ok());
        };
        (0..5).for_each(|_| guard.look());
        assert_eq!(looks(&mut guard), 1);
        reload(&guard);
        (0..5).for_each(|_| guard.look());
        assert_eq!(looks(&mut guard), 2);
        // A reload that leaves it as it was is nothing new.
        let same = Change::Config { config: guard.control.store().config(), resolved: HashMap::new() };
        assert!(guard.control.store().apply(same).is_ok());
        (0..5).for_each(|_| guard.look());
        assert_eq!(looks(&mut guard), 2);
        guard.control.store().current().used.mark(0);
        (0..5).for_each(|_| guard.look());
        assert_eq!(looks(&mut guard), 7);
        // What has had requests is followed under later snapshots, too.
        reload(&guard);
        (0..5).for_each(|_| guard.look());
        assert_eq!(looks(&mut guard), 12);
    }

    /// A shop that goes toward its canary, beside a fresh copy of blue.
    fn guard_of_a_rollout() -> Guard {
        let guard = guard();
        let weights = vec![("blue".to_owned(), 80.0), ("canary".to_owned(), 5.0), ("fresh".to_owned(), 5.0)];
        deploy(&guard, Some("fresh"), weights);
        guard
    }

    fn deploy(guard: &Guard, baseline: Option<&str>, weights: Vec<(String, f64)>) {
        let (service, candidate) = ("shop".parse().unwrap(), "canary".parse().unwrap());
        let baseline = baseline.map(|name| name.parse().unwrap());
        let open = OpenRollout { id: 1, candidate, cohort: false, mirrored: 0.0, baseline };
        let deployment = Deployment { rollout: Some(open), ..Deployment::none(service) };
        let change = DeployChange { deployment, weights: Some(weights), undrain: Vec::new(), resolved: HashMap::new() };
        assert!(guard.control.store().apply(Change::Deploy(change)).is_ok());
    }

    fn fail(guard: &mut Guard, backend: usize, count: usize) {
        for _ in 0..count {
            let service = shop(guard);
            let request_id = http::HeaderValue::from_static("1");
            let (kind, at) = (FailureKind::Client, SystemTime::now());
            guard.take(&Report {
                service,
                index: 0,
                backend,
                route: None,
                kind,
                key: None,
                request_id,
                endpoint: None,
                at,
            });
        }
    }

    fn tally_of(guard: &mut Guard, backend: usize) -> ((u64, u64), f64) {
        let service = shop(guard);
        let trial = &guard.candidate(&service, &service.backends[backend]).trial;
        (trial.tallies()[FailureKind::Client as usize].failures(), trial.e_value())
    }

    #[tokio::test(start_paused = true)]
    async fn a_candidate_with_a_baseline_is_judged_beside_it_and_that_beside_stable_which_never_drains_it() {
        let mut guard = guard_of_a_rollout();
        fail(&mut guard, 1, 20);
        fail(&mut guard, 2, 20);
        fail(&mut guard, 0, 7);
        assert_eq!(tally_of(&mut guard, 1).0, (20, 20), "what stable fails is none of its business");
        assert!(tally_of(&mut guard, 1).1 < 10.0, "alike");
        assert_eq!(tally_of(&mut guard, 2).0, (20, 7));
        assert!(tally_of(&mut guard, 2).1 > 1e4, "far worse than stable, and still there");
        assert!(shop(&guard).backends.iter().all(|backend| backend.drain.is_none()));
        assert!(!shop(&guard).watch.is_rescue_suspended());
        fail(&mut guard, 2, 500);
        assert!(!shop(&guard).watch.is_rescue_suspended(), "a bad baseline says nothing of stable");
    }

    #[tokio::test(start_paused = true)]
    async fn a_candidate_that_is_worse_than_its_baseline_is_drained_and_says_beside_whom() {
        let mut guard = guard_of_a_rollout();
        let (tell, mut told) = mpsc::channel(8);
        guard.convicted = tell;
        fail(&mut guard, 1, 200);
        let drain = shop(&guard).backends[1].drain.clone().expect("it is drained");
        assert!(drain.reason.contains("against 0 of fresh"), "{}", drain.reason);
        assert_eq!(told.try_recv().unwrap().evidence["stable"], "fresh");
    }

    #[tokio::test(start_paused = true)]
    async fn beside_something_else_a_trial_begins_anew() {
        let mut guard = guard_of_a_rollout();
        fail(&mut guard, 1, 4);
        let key = ("shop".parse().unwrap(), "canary".parse().unwrap());
        let before = guard.sight(&key).unwrap();
        assert_eq!(before.reference.as_str(), "fresh");
        let weights = vec![("blue".to_owned(), 2.0), ("canary".to_owned(), 98.0), ("fresh".to_owned(), 0.0)];
        deploy(&guard, None, weights);
        assert!(guard.sight(&key).is_none_or(|now| now.reference == before.reference), "until somebody looks");
        assert_eq!(tally_of(&mut guard, 1).0, (0, 0));
        let after = guard.sight(&key).unwrap();
        assert_eq!((after.reference.as_str(), after.number > before.number), ("blue", true));
        fail(&mut guard, 0, 3);
        assert_eq!(tally_of(&mut guard, 1).0, (0, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_revision_that_is_deployed_again_is_judged_anew_and_late_failures_are_not_its_own() {
        let mut guard = guard();
        let deploy = |guard: &Guard, id: Option<u64>| {
            let (service, candidate): (ServiceName, BackendName) = ("shop".parse().unwrap(), "canary".parse().unwrap());
            let rollout = id.map(|id| OpenRollout {
                id,
                candidate: candidate.clone(),
                cohort: false,
                mirrored: 0.0,
                baseline: None,
            });
            let deployment = Deployment { rollout, ..Deployment::none(service) };
            let undrain = vec![candidate];
            let change = DeployChange { deployment, weights: None, undrain, resolved: HashMap::new() };
            guard.control.store().apply(Change::Deploy(change)).unwrap();
            shop(guard)
        };
        let failed = |service: &Arc<Service>| Report {
            service: Arc::clone(service),
            index: 0,
            backend: 1,
            route: None,
            kind: FailureKind::Server,
            key: None,
            request_id: http::HeaderValue::from_static("1"),
            endpoint: None,
            at: SystemTime::now(),
        };
        let counted = |guard: &mut Guard| {
            let shop = shop(guard);
            guard.candidate(&shop, &shop.backends[1]).trial.counted()[0]
        };
        let first = deploy(&guard, Some(1));
        (0..3).for_each(|_| guard.take(&failed(&first)));
        let after = deploy(&guard, None);
        guard.take(&failed(&after));
        assert_eq!(counted(&mut guard), 4, "the end of a rollout is no beginning");
        let second = deploy(&guard, Some(2));
        assert_eq!(shop(&guard).backends[1].revision, first.backends[1].revision);
        assert!(guard.sight(&("shop".parse().unwrap(), "canary".parse().unwrap())).is_none());
        guard.take(&failed(&first));
        guard.take(&failed(&after));
        guard.take(&failed(&second));
        assert_eq!(counted(&mut guard), 1);
    }

    #[test]
    fn what_found_no_place_at_a_backend_is_none_of_its_failures() {
        let mut totals = BackendTotals { queue_full: 30, queue_timeouts: 10, ..BackendTotals::default() };
        totals.codes[CodeClass::Success as usize] = 60;
        totals.codes[CodeClass::ServerError as usize] = 45;
        assert_eq!(tally(&totals), Tally { requests: 65, failures: 5 });
    }
}
