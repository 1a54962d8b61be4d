//! Rollouts at work: on the control thread, looks at each rollout under way several times a second, does what its
//! machine says, and carries people's words to it.
//!
//! What goes toward a candidate waits for the journal. What takes it back doesn't: the guard's verdict and a person's
//! abort or rollback are taken in even while something else waits for the disk, and that is dropped then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use super::baseline::{Baseline, baseline, fitting, lost};
use super::change::{begun, candidate, change, is_toward_candidate, overruled};
use super::error::RolloutError;
use super::evidence::{Evidence, Likeness};
use super::gates::{frozen, tell};
use super::handle::{Command, Fresh, Inbox, Rollouts, Say, Sought};
use super::history::{end, ended, fact, shown};
use super::machine::{Action, Decision, Event, Outcome, Phase, State, Traffic, Word};
use super::record::{About, FreezeOverride, Receipt, Record, SCHEMA, StepTaken, told, unix_ms};
use super::settling::{SETTLE_INTERVAL, Settling};
use super::sight::{Sides, Sight, usual};
use super::view::{DeployBody, ProgressView, RolloutView, RolloutsView};
use crate::config::{EndpointConfig, ServiceConfig};
use crate::control::Control;
use crate::guard::{Convicted, Questions};
use crate::journal::{Entry, Fact, Lasting, RolloutMemory};
use crate::model::{BackendName, GuardMode, Plan, Point, ServiceName, Step, Strategy};
use crate::observe::{RolloutMetrics, RolloutTotals};
use crate::shadow::Results;
use crate::state::{DeployChange, Service, Snapshot, named_service};

/// Who tidegate is in its own history.
const SELF: &str = "tidegate";
/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Between two complaints about the same trouble.
const WARN_INTERVAL: Duration = Duration::from_secs(10);
/// Rollouts that are kept of each service; the journal keeps as many.
const RECORDS_MAX: usize = 50;

/// See the module's text.
#[derive(Debug)]
pub struct Conductor {
    control: Arc<Control>,
    trials: Questions,
    shadows: Results,
    inbox: Inbox,
    convicted: mpsc::Receiver<Convicted>,
    /// By service, the oldest first.
    records: BTreeMap<ServiceName, Vec<Record>>,
    /// Of rollouts under way.
    sights: BTreeMap<ServiceName, Sight>,
    /// Of rollouts that were taken back a moment ago.
    settling: BTreeMap<ServiceName, Settling>,
    metrics: Arc<RolloutMetrics>,
    /// How those of this process have ended, in the order of [`Outcome::ALL`].
    ended: BTreeMap<ServiceName, [u64; 4]>,
    /// When it was last said that one has to wait.
    warned: Option<Instant>,
}

/// What a transition of a rollout does.
struct Move {
    record: Record,
    entry: Entry,
    /// Why, where somebody knows.
    evidence: Option<serde_json::Value>,
    /// `None`: requests see nothing of it.
    change: Option<DeployChange>,
    toward_candidate: bool,
    /// The service's revision that it was thought out for.
    seen: Option<u64>,
    /// Whoever wants to know of it.
    tell: Option<Point>,
}

/// What follows from an event.
enum Next {
    Nothing,
    /// Gates are asked first.
    Ask,
    Move(Box<Move>),
}

impl Conductor {
    /// One that takes up the rollouts of before a restart.
    #[must_use]
    pub fn new(
        control: Arc<Control>,
        trials: Questions,
        shadows: Results,
        convicted: mpsc::Receiver<Convicted>,
        metrics: Arc<RolloutMetrics>,
        memories: Vec<RolloutMemory>,
    ) -> (Self, Rollouts) {
        let (rollouts, inbox) = Rollouts::new();
        let mut records: BTreeMap<ServiceName, Vec<Record>> = BTreeMap::new();
        for memory in memories {
            let (service, id) = (memory.service.clone(), memory.id);
            let Some(mut record) = Record::remembered(memory) else {
                warn!(%service, id, "a rollout's record can't be read, and is left as it is");
                continue;
            };
            if let Ok((state, _)) = record.state.next(&record.plan, &Event::Restarted, record.state.at_ms) {
                record.state = state;
            }
            records.entry(service).or_default().push(record);
        }
        let (sights, settling, ended, warned) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new(), None);
        let conductor =
            Self { control, trials, shadows, inbox, convicted, records, sights, settling, metrics, ended, warned };
        conductor.publish();
        (conductor, rollouts)
    }

    /// Carries rollouts out for as long as the process lives.
    pub async fn run(mut self) {
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut settle = interval(SETTLE_INTERVAL);
        settle.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.settle_all();
        loop {
            tokio::select! {
                biased;
                Some(convicted) = self.convicted.recv() => self.take_verdict(convicted),
                Some(say) = self.inbox.urgent.recv() => self.take_urgent(say),
                command = self.inbox.commands.recv() => match command {
                    Some(command) => self.take(command).await,
                    None => return,
                },
                _ = settle.tick(), if !self.settling.is_empty() => self.settle(),
                _ = look.tick() => self.look().await,
            }
        }
    }

    async fn take(&mut self, command: Command) {
        // Whoever has gone needs no answer.
        match command {
            Command::Deploy { service, body, sought, by, expected, answer } => {
                let done = self.deploy(&service, &body, sought, &by, expected).await;
                let _ = answer.send(done);
            }
            Command::Say(say) => {
                let done = self.said(&say).await;
                let _ = say.answer.send(done);
            }
            Command::List { service, answer } => {
                let _ = answer.send(self.list(&service));
            }
        }
    }

    fn list(&self, service: &str) -> Result<RolloutsView, RolloutError> {
        let snapshot = self.control.store().current();
        let known = self.records.get(service);
        if known.is_none() {
            named_service(&snapshot, service)?;
        }
        let rollouts = known.into_iter().flatten().rev().map(|record| self.view(record)).collect();
        Ok(RolloutsView { rollouts })
    }

    fn view(&self, record: &Record) -> RolloutView {
        let snapshot = self.control.store().current();
        let sight = self.sights.get(&record.service).filter(|_| !record.state.is_over());
        let sides = snapshot.service(record.service.as_str()).and_then(|service| Sides::of(service, record));
        let settling = self.settling.get(&record.service).filter(|_| record.is_settling());
        if let Some((settling, sides)) = settling.zip(sides) {
            return RolloutView::new(record, record.receipt.plus(&settling.receipt(sides.candidate)), None);
        }
        let Some((sight, sides)) = sight.zip(sides) else {
            return RolloutView::new(record, record.receipt.clone(), None);
        };
        let evidence = self.evidence(record, sight, sides);
        let seconds = sight.now_ms().saturating_sub(record.state.at_ms) as f64 / 1000.0;
        let receipt = record.receipt.plus(&sight.receipt(sides.candidate));
        RolloutView::new(record, receipt, Some(ProgressView::new(record, &evidence, seconds)))
    }

    /// What is known at this moment.
    fn evidence(&self, record: &Record, sight: &Sight, sides: Sides<'_>) -> Evidence {
        let mut evidence = sight.evidence(record, sides, self.is_judged(sides.service));
        if let Some(Step::Mirror { .. }) = record.state.step().and_then(|step| record.plan.steps.get(step)) {
            let verdict = self.shadows.verdict(record.service.as_str(), record.candidate.as_str());
            evidence.likeness = verdict.map_or_else(Likeness::default, Likeness::from);
        }
        if record.freeze_override.is_none() {
            evidence.frozen = frozen(&sides.service.config, SystemTime::now());
        }
        evidence
    }

    /// Failures of its candidates are counted.
    fn is_judged(&self, service: &Service) -> bool {
        let live = *self.control.guard().borrow();
        live.map_or(service.config.guard, |live| live.min(service.config.guard)) != GuardMode::Off
    }

    fn current(&self, service: &str) -> Option<&Record> {
        self.records.get(service)?.last()
    }

    /// Puts a revision into the backend that isn't stable, and begins.
    async fn deploy(
        &mut self,
        service: &str,
        body: &DeployBody,
        sought: Sought,
        by: &str,
        expected: Option<u64>,
    ) -> Result<(RolloutView, Fresh), RolloutError> {
        let snapshot = self.control.store().current();
        let found = named_service(&snapshot, service)?;
        if let Some(known) = self.known(found, &body.revision, &sought)? {
            return Ok((self.view(known), Fresh::Known));
        }
        let file = self.control.store().config();
        let file = file.services.iter().find(|file| file.name == *found.name()).unwrap_or(&found.config);
        // From here on its backend counts for another one.
        self.settled(found.name());
        let mut record = self.beginning(found, file, body, &sought, by)?;
        let frozen = frozen(&found.config, SystemTime::now());
        let overridden = match (frozen, &body.override_freeze) {
            (None, _) => None,
            (Some(window), None) => return Err(RolloutError::Frozen { window }),
            (Some(window), Some(why)) => {
                record.freeze_override = Some(FreezeOverride { by: by.to_owned(), why: why.clone() });
                Some((window, why.clone()))
            }
        };
        let change = DeployChange { resolved: sought.resolved, ..begun(found, file, &record, body.retry)? };
        let fact = Fact::RolloutBegan {
            service: service.to_owned(),
            rollout: record.id,
            backend: record.candidate.to_string(),
            revision: record.revision.clone(),
            stable: record.stable.to_string(),
            strategy: record.plan.strategy.name().to_owned(),
            baseline: record.plan.baseline.as_ref().map(ToString::to_string),
        };
        let entry = Entry::now(by, fact).with(Lasting::SetRollout(record.memory()));
        // What it leaves as it is was read before its turn came.
        self.advance(found.name(), change, entry, expected.or(Some(found.revision))).await?;
        if body.retry {
            // How it answered copies the last time had its consequence then.
            self.shadows.forget(service, record.candidate.as_str());
        }
        info!(service, revision = record.revision, backend = %record.candidate, by, "a rollout begins");
        if let Some((window, why)) = overridden {
            self.note_override(&record, window, why, by);
        }
        self.replace(record);
        let record = self.current(service).ok_or(RolloutError::Stopping)?;
        Ok((self.view(record), Fresh::Begun))
    }

    /// The rollout that has brought this revision, or brings it.
    fn known(&self, service: &Service, revision: &str, sought: &Sought) -> Result<Option<&Record>, RolloutError> {
        let name = service.name();
        let Some(latest) = self.current(name.as_str()) else { return Ok(None) };
        let same = latest.revision == revision && latest.endpoints == texts(&sought.endpoints);
        if !latest.state.is_over() {
            let beside = latest.baseline.as_ref().map(|baseline| &baseline.endpoints);
            let same_beside = sought.baseline.is_empty() || beside == Some(&texts(&sought.baseline));
            return if same && same_beside {
                Ok(Some(latest))
            } else {
                Err(RolloutError::Conflict(format!(
                    "rollout {} of {name} is under way, with revision {:?}; it has to end first: tidegate abort {name}",
                    latest.id, latest.revision
                )))
            };
        }
        let stable = service.stable();
        let in_force = latest.state.outcome() == Some(Outcome::Completed)
            && stable.name == latest.candidate
            && *stable.revision == *latest.revision;
        Ok(Some(latest).filter(|_| same && in_force))
    }

    fn beginning(
        &self,
        service: &Service,
        file: &ServiceConfig,
        body: &DeployBody,
        sought: &Sought,
        by: &str,
    ) -> Result<Record, RolloutError> {
        let endpoints = texts(&sought.endpoints);
        let (name, stable) = (service.name(), service.stable());
        let candidate = candidate(service, body.backend.as_deref())?;
        if stable.wanted <= candidate.wanted {
            return Err(RolloutError::Conflict(format!(
                "{} is stable, and has no more weight than {}, which a new revision would take away; shift the weights first",
                stable.name, candidate.name
            )));
        }
        let drained_by = candidate.drain.as_ref().and_then(|drain| drain.by.as_ref());
        if let Some(person) = drained_by {
            return Err(RolloutError::Conflict(format!(
                "{} is drained by {person}; first: tidegate undrain {name}/{}",
                candidate.name, candidate.name
            )));
        }
        if let Some(rolling) = self.control.roll_of(name) {
            return Err(RolloutError::Conflict(format!(
                "{} is rolling {name}/{}; a release goes before or after that",
                rolling.roll.by, rolling.roll.backend
            )));
        }
        let records = self.records.get(name).map_or(&[][..], Vec::as_slice);
        let last = records.iter().rev().find(|record| record.revision == body.revision);
        if let Some(bad) = last.filter(|record| record.was_rejected() && !body.retry) {
            let at = bad.ended_ms.map(told).unwrap_or_default();
            let reason = bad.state.end_reason().unwrap_or_default();
            return Err(RolloutError::Conflict(format!(
                "revision {:?} was rolled back at {at}: {reason}; with --retry it is tried again",
                body.revision
            )));
        }
        let is_there = *candidate.revision == *body.revision;
        if is_there && candidate.drain.is_some() && !body.retry {
            return Err(RolloutError::Conflict(format!(
                "the guard has drained revision {:?}; with --retry it is tried again",
                body.revision
            )));
        }
        // What was in force before, and is still there, is known to be good.
        let is_proven = is_there
            && last.is_some_and(|record| {
                record.state.outcome() == Some(Outcome::Completed) && record.endpoints == endpoints
            });
        let own = &service.config.rollout.plan;
        let plan = if is_proven { Plan::at_once() } else { plan(own, body.strategy)? };
        let plan = fitting(plan, own, name, stable, candidate, !sought.baseline.is_empty())?;
        let baseline = baseline(service, file, &plan, &endpoints, &sought.baseline)?;
        let latest = records.last();
        Ok(Record {
            schema: SCHEMA,
            service: name.clone(),
            id: latest.map_or(1, |record| record.id + 1),
            version: latest.map_or(1, |record| record.version + 1),
            candidate: candidate.name.clone(),
            stable: stable.name.clone(),
            revision: body.revision.clone(),
            endpoints,
            stable_revision: stable.revision.to_string(),
            about: About {
                commit: body.commit.clone(),
                commit_time: body.commit_time.clone(),
                author: body.author.clone(),
                link: body.link.clone(),
            },
            by: by.to_owned(),
            plan,
            state: State::begun(),
            usual: usual(stable),
            began_ms: unix_ms(SystemTime::now()),
            ended_ms: None,
            steps: Vec::new(),
            receipt: Receipt::default(),
            freeze_override: None,
            baseline,
        })
    }

    fn note_override(&self, record: &Record, window: String, why: String, by: &str) {
        let (service, rollout) = (record.service.to_string(), record.id);
        warn!(service, rollout, window, why, by, "a freeze is overridden");
        let fact = Fact::FreezeOverridden { service, rollout, window, why };
        self.control.note_rollout(Entry::now(by, fact).with(Lasting::SetRollout(record.memory())));
    }

    /// Puts a record in the place of what it was before, or behind all others.
    fn replace(&mut self, record: Record) {
        let snapshot = self.control.store().current();
        let sides = snapshot.service(record.service.as_str()).and_then(|service| Sides::of(service, &record));
        match sides.filter(|_| !record.state.is_over()) {
            None => drop(self.sights.remove(&record.service)),
            Some(sides) => {
                let known = self.sights.entry(record.service.clone());
                known.or_insert_with(|| Sight::new(sides, &record)).note(&record, sides);
            }
        }
        let records = self.records.entry(record.service.clone()).or_default();
        let before = records.iter().find(|known| known.id == record.id).and_then(|known| known.state.outcome());
        if let Some(outcome) = record.state.outcome().filter(|outcome| before != Some(*outcome)) {
            self.ended.entry(record.service.clone()).or_default()[outcome as usize] += 1;
        }
        match records.iter_mut().find(|known| known.id == record.id) {
            Some(known) => *known = record,
            None => records.push(record),
        }
        if records.len() > RECORDS_MAX {
            records.remove(0);
        }
        self.publish();
    }

    /// For the metrics.
    fn publish(&self) {
        let totals = self.records.iter().filter_map(|(service, records)| {
            let Record { state, plan, .. } = records.last()?;
            let share = match state.traffic(plan) {
                Traffic::Shared { percent, .. } => percent / 100.0,
                Traffic::Exchanged => 1.0,
            };
            let ended = self.ended.get(service).copied().unwrap_or_default();
            Some(RolloutTotals {
                service: service.to_string(),
                state: state.label(),
                step: state.step().map_or(0, |step| step + 1),
                steps: plan.steps.len(),
                share,
                ended: Outcome::ALL.iter().map(|outcome| outcome.label()).zip(ended).collect(),
            })
        });
        *self.metrics.services.lock().expect("no holder of this lock panics") = totals.collect();
    }

    /// Looks at every rollout under way.
    async fn look(&mut self) {
        let open: Vec<ServiceName> =
            self.records.iter().filter(|(_, records)| is_open(records)).map(|(name, _)| name.clone()).collect();
        for name in open {
            if let Some(event) = self.seen(&name).await
                && let Err(error) = self.happen(&name, &event, SELF, None).await
            {
                // It is tried again at each look.
                if self.warned.is_none_or(|warned| warned.elapsed() >= WARN_INTERVAL) {
                    self.warned = Some(Instant::now());
                    warn!(service = %name, %error, "a rollout has to wait");
                }
            }
        }
    }

    /// What there is to say of a rollout at this moment.
    async fn seen(&mut self, name: &ServiceName) -> Option<Event> {
        let record = self.current(name.as_str()).filter(|record| !record.state.is_over())?.clone();
        let trial = self.trials.trial(name.clone(), record.candidate.clone()).await;
        // The guard says why before it drains, and its word has the evidence, which the drain that is seen below hasn't.
        while let Ok(convicted) = self.convicted.try_recv() {
            self.take_verdict(convicted);
        }
        self.current(name.as_str()).filter(|record| !record.state.is_over())?;
        let snapshot = self.control.store().current();
        let Some(service) = snapshot.service(name.as_str()) else {
            return Some(Event::Overruled("the file has no such service any more".to_owned()));
        };
        if let Some(reason) = overruled(service, &record) {
            return Some(Event::Overruled(reason));
        }
        let sides = Sides::of(service, &record)?;
        if let Some(drain) = sides.candidate.drain.as_ref().filter(|drain| drain.until.is_none()) {
            return Some(Event::Verdict(drain.reason.clone()));
        }
        let trial = trial.filter(|trial| trial.view.revision == record.revision);
        let sight = self.sights.entry(name.clone()).or_insert_with(|| Sight::new(sides, &record));
        sight.look(sides, trial);
        sight.gates.note(&record.state);
        sight.gates.watch(&record, sides);
        if record.state.step().is_none() {
            sight.connect(sides).await;
        } else if !sides.candidate.is_available() {
            return Some(Event::EndpointsGone { stable_up: sides.stable.is_available() });
        } else if let Some(reason) = lost(service, &record) {
            return Some(Event::BaselineLost(reason));
        }
        let sight = self.sights.get(name)?;
        Some(Event::Tick(Box::new(self.evidence(&record, sight, sides))))
    }

    fn take_verdict(&mut self, convicted: Convicted) {
        let Convicted { service, backend, revision, reason, evidence } = convicted;
        let about =
            |record: &&Record| !record.state.is_over() && record.candidate == backend && *record.revision == *revision;
        if self.current(service.as_str()).as_ref().is_some_and(about)
            && let Err(error) = self.happen_at_once(&service, &Event::Verdict(reason), SELF, Some(evidence))
        {
            warn!(%service, %error, "a rollout can't be rolled back");
        }
    }

    fn take_urgent(&mut self, say: Say) {
        let done = self.addressed(&say).and_then(|name| {
            self.happen_at_once(&name, &Event::Operator(say.word), &say.by, say.why())?;
            self.current(name.as_str()).map(|record| self.view(record)).ok_or(RolloutError::Stopping)
        });
        let _ = say.answer.send(done);
    }

    async fn said(&mut self, say: &Say) -> Result<RolloutView, RolloutError> {
        let name = self.addressed(say)?;
        self.thaw(&name, say)?;
        self.happen(&name, &Event::Operator(say.word), &say.by, say.why()).await?;
        self.current(name.as_str()).map(|record| self.view(record)).ok_or(RolloutError::Stopping)
    }

    /// Whoever moves requests toward a candidate in a freeze says why, once for the whole rollout.
    fn thaw(&mut self, name: &ServiceName, say: &Say) -> Result<(), RolloutError> {
        let goes_on = matches!(say.word, Word::Promote | Word::PromoteFull | Word::Approve);
        let snapshot = self.control.store().current();
        let config = snapshot.service(name.as_str()).map(|service| Arc::clone(&service.config));
        let window = config.filter(|_| goes_on).and_then(|config| frozen(&config, SystemTime::now()));
        let Some(record) = self.records.get_mut(name).and_then(|records| records.last_mut()) else { return Ok(()) };
        let open = !record.state.is_over() && record.freeze_override.is_none();
        let Some(window) = window.filter(|_| open) else { return Ok(()) };
        let Some(why) = say.override_freeze.clone() else { return Err(RolloutError::Frozen { window }) };
        record.freeze_override = Some(FreezeOverride { by: say.by.clone(), why: why.clone() });
        let record = record.clone();
        self.note_override(&record, window, why, &say.by);
        Ok(())
    }

    /// The service whose latest rollout a word is about.
    fn addressed(&self, say: &Say) -> Result<ServiceName, RolloutError> {
        let snapshot = self.control.store().current();
        let name = named_service(&snapshot, &say.service)?.name().clone();
        let none = || RolloutError::NoRollout { service: say.service.clone(), id: say.id };
        let latest = self.current(name.as_str()).ok_or_else(none)?;
        if let Some(id) = say.id.filter(|id| *id != latest.id) {
            let known = self.records.get(&name).is_some_and(|records| records.iter().any(|record| record.id == id));
            return Err(if known {
                RolloutError::Conflict(format!("rollout {id} is over, and {} came after it", latest.id))
            } else {
                none()
            });
        }
        if let Some(now) = say.expected.and_then(|expected| (expected != latest.version).then_some(latest.version)) {
            return Err(RolloutError::Outdated { now });
        }
        if say.word == Word::Rollback && latest.state.is_over() {
            may_go_back(&snapshot, latest)?;
        }
        Ok(name)
    }

    /// Does what follows from an event; what goes toward a candidate once it is written down.
    async fn happen(
        &mut self,
        name: &ServiceName,
        event: &Event,
        by: &str,
        evidence: Option<serde_json::Value>,
    ) -> Result<(), RolloutError> {
        let moved = match self.plan_move(name, event, by, evidence)? {
            Next::Nothing => return Ok(()),
            Next::Ask => {
                self.ask(name);
                return Ok(());
            }
            Next::Move(moved) => *moved,
        };
        match moved.change {
            Some(change) if moved.toward_candidate => {
                // Where the file has changed meanwhile, it is thought out anew.
                self.advance(name, change, moved.entry, moved.seen).await?;
                log(&moved.record, by);
                self.tell(&moved.record, moved.tell);
                self.replace(moved.record);
                Ok(())
            }
            _ => self.make(moved, by),
        }
    }

    /// The same for what takes nothing toward a candidate: nobody is waited for.
    fn happen_at_once(
        &mut self,
        name: &ServiceName,
        event: &Event,
        by: &str,
        evidence: Option<serde_json::Value>,
    ) -> Result<(), RolloutError> {
        match self.plan_move(name, event, by, evidence)? {
            Next::Move(moved) => self.make(*moved, by),
            Next::Nothing | Next::Ask => Ok(()),
        }
    }

    fn make(&mut self, moved: Move, by: &str) -> Result<(), RolloutError> {
        match moved.change {
            Some(change) => self.control.retreat(change, moved.entry)?,
            None => self.control.note_rollout(moved.entry),
        }
        log(&moved.record, by);
        if moved.record.is_settling()
            && let Some(sight) = self.sights.remove(&moved.record.service)
        {
            let settling = Settling::new(sight, by, moved.evidence, moved.tell);
            self.settling.insert(moved.record.service.clone(), settling);
        } else {
            self.tell(&moved.record, moved.tell);
        }
        self.replace(moved.record);
        Ok(())
    }

    /// Tells the end of those that were taken back, once all is counted.
    fn settle(&mut self) {
        let snapshot = self.control.store().current();
        let mut over = Vec::new();
        for (name, settling) in &mut self.settling {
            let record = self.records.get(name).and_then(|records| records.last());
            let sides = record.zip(snapshot.service(name.as_str())).and_then(|(record, of)| Sides::of(of, record));
            if sides.is_none_or(|sides| settling.is_over(sides.candidate)) {
                over.push(name.clone());
            }
        }
        for name in &over {
            self.settled(name);
        }
    }

    /// Tells the end of one that was taken back, as far as it is counted; nothing happens to any other.
    fn settled(&mut self, name: &ServiceName) {
        let settling = self.settling.remove(name);
        let Some(record) = self.current(name.as_str()).filter(|record| record.is_settling()) else { return };
        let Phase::Ended { outcome, reason } = record.state.phase.clone() else { return };
        let snapshot = self.control.store().current();
        let sides = snapshot.service(name.as_str()).and_then(|service| Sides::of(service, record));
        let more = settling.as_ref().zip(sides).map(|(settling, sides)| settling.receipt(sides.candidate));
        let receipt = record.receipt.plus(&more.unwrap_or_default());
        let ended_ms = Some(unix_ms(SystemTime::now()));
        let record = Record { receipt, ended_ms, version: record.version + 1, ..record.clone() };
        let (by, evidence, tell) = match settling {
            Some(settling) => (settling.by, settling.evidence, settling.tell),
            None => (SELF.to_owned(), None, None),
        };
        let fact = ended(&record, outcome, reason, evidence);
        self.control.note_rollout(Entry::now(by, fact).with(Lasting::SetRollout(record.memory())));
        self.tell(&record, tell);
        self.replace(record);
    }

    /// The same for those whose process ended before it was told.
    fn settle_all(&mut self) {
        let names: Vec<ServiceName> = self.records.keys().cloned().collect();
        for name in &names {
            self.settled(name);
        }
    }

    fn ask(&mut self, name: &ServiceName) {
        let snapshot = self.control.store().current();
        let Some(record) = self.records.get(name).and_then(|records| records.last()) else { return };
        let sides = snapshot.service(name.as_str()).and_then(|service| Sides::of(service, record));
        if let (Some(sides), Some(sight)) = (sides, self.sights.get_mut(name)) {
            sight.gates.ask(record, sides);
        }
    }

    fn tell(&self, record: &Record, point: Option<Point>) {
        let snapshot = self.control.store().current();
        if let (Some(point), Some(service)) = (point, snapshot.service(record.service.as_str())) {
            tell(record, &service.config.rollout.gates, point);
        }
    }

    /// Writes down and puts in force, while whatever is urgent is taken in.
    async fn advance(
        &mut self,
        name: &ServiceName,
        change: DeployChange,
        entry: Entry,
        expected: Option<u64>,
    ) -> Result<(), RolloutError> {
        let control = Arc::clone(&self.control);
        let version = |conductor: &Self| conductor.current(name.as_str()).map(|record| record.version);
        let before = version(self);
        let writing = control.advance(change, entry, expected);
        tokio::pin!(writing);
        loop {
            tokio::select! {
                biased;
                Some(convicted) = self.convicted.recv() => self.take_verdict(convicted),
                Some(say) = self.inbox.urgent.recv() => self.take_urgent(say),
                written = &mut writing => return Ok(written?),
            }
            if version(self) != before {
                // Whatever the journal makes of it, what was just said stands behind it.
                return Err(RolloutError::Conflict("it was taken back meanwhile".to_owned()));
            }
        }
    }

    /// What follows from an event, ready to be done.
    fn plan_move(
        &self,
        name: &ServiceName,
        event: &Event,
        by: &str,
        evidence: Option<serde_json::Value>,
    ) -> Result<Next, RolloutError> {
        let Some(record) = self.current(name.as_str()) else { return Ok(Next::Nothing) };
        let sight = self.sights.get(name);
        let now_ms = sight.map_or(record.state.at_ms, Sight::now_ms);
        let (state, actions) = record.state.next(&record.plan, event, now_ms)?;
        let (mut decision, mut shift, mut told) = (None, None, None);
        for action in actions {
            match action {
                Action::Record(made) => decision = Some(made),
                Action::Shift(traffic) => shift = Some(traffic),
                Action::Tell(point) => told = Some(point),
                Action::Ask => return Ok(Next::Ask),
            }
        }
        let before = record.state.traffic(&record.plan);
        let mut next = Record { state, version: record.version + 1, ..record.clone() };
        let snapshot = self.control.store().current();
        let service = snapshot.service(name.as_str());
        if let Some(Decision::Advanced { step, reason }) = &decision {
            next.steps.push(StepTaken {
                step: *step,
                at_ms: unix_ms(SystemTime::now()),
                by: by.to_owned(),
                reason: reason.clone(),
            });
        }
        // One that has gates behind it is still at its step.
        if let Some(Decision::Approved { step }) = decision.as_ref().filter(|_| !next.state.is_at_approved()) {
            let reason = "approved".to_owned();
            next.steps.push(StepTaken { step: step + 1, at_ms: unix_ms(SystemTime::now()), by: by.to_owned(), reason });
        }
        let sides = service.and_then(|service| Sides::of(service, record));
        if next.state.is_over() {
            end(&mut next, sides.zip(sight), evidence.as_ref());
        }
        let evidence = evidence.or_else(|| {
            let Event::Tick(evidence) = event else { return None };
            Some(shown(record, evidence))
        });
        let fact = decision.map(|decision| fact(&next, decision, evidence.clone()));
        let Some(fact) = fact else { return Ok(Next::Nothing) };
        let entry = Entry::now(by, fact).with(Lasting::SetRollout(written(&next, sides.zip(sight))));
        // What isn't this rollout's any more is none of its business.
        let is_ours = |service: &&Arc<Service>| {
            record.state.is_over() || service.rollout().is_some_and(|open| open.id == record.id)
        };
        // A pause may follow on a step that was dropped while it waited for the disk, which may have it all the same.
        // A person's word to go on must outlive the process once it is answered, be it to a step that only waits.
        let goes_on =
            matches!(event, Event::Operator(Word::Promote | Word::PromoteFull | Word::Approve | Word::Resume))
                && !next.state.is_over();
        let restates =
            goes_on || shift.is_some() || next.state.is_over() || matches!(next.state.phase, Phase::Paused { .. });
        let service = service.filter(is_ours).filter(|_| restates);
        let overruled = matches!(event, Event::Overruled(_));
        let change = service.map(|service| change(service, &next, self.file_stable(name), overruled));
        let toward_candidate = goes_on || shift.is_some_and(|after| is_toward_candidate(before, after));
        let seen = service.map(|service| service.revision);
        Ok(Next::Move(Box::new(Move { record: next, entry, evidence, change, toward_candidate, seen, tell: told })))
    }

    /// What the file says is stable.
    fn file_stable(&self, name: &ServiceName) -> Option<BackendName> {
        let config = self.control.store().config();
        let file = config.services.iter().find(|file| file.name == *name)?;
        Some(file.backends[file.stable].name.clone())
    }
}

/// The service's own plan, or the usual steps of another strategy.
fn plan(own: &Plan, strategy: Option<Strategy>) -> Result<Plan, RolloutError> {
    match strategy.filter(|strategy| *strategy != own.strategy) {
        None => Ok(own.clone()),
        Some(Strategy::Cohort) => Err(RolloutError::Invalid(
            "who is in the cohort is said in proxy.toml, and so is that there is one: strategy = \"cohort\"".to_owned(),
        )),
        Some(strategy) => Ok(Plan { strategy, steps: Plan::usual(strategy).steps, ..own.clone() }),
    }
}

/// The old side is as it was.
fn may_go_back(snapshot: &Snapshot, latest: &Record) -> Result<(), RolloutError> {
    let service = named_service(snapshot, latest.service.as_str())?;
    let is_back = service.stable().name != latest.candidate;
    let old = service.backend(latest.stable.as_str()).filter(|old| *old.revision == *latest.stable_revision);
    let refuse = |reason: String| Err(RolloutError::Conflict(reason));
    match old {
        _ if latest.state.outcome() != Some(Outcome::Completed) => Ok(()),
        _ if is_back => refuse("the file has made another backend stable since".to_owned()),
        None => refuse(format!("{} doesn't run {:?} any more", latest.stable, latest.stable_revision)),
        Some(old) if !old.is_available() => refuse(format!("no endpoint of {} is available any more", latest.stable)),
        Some(_) => Ok(()),
    }
}

fn log(record: &Record, by: &str) {
    let (service, id) = (&record.service, record.id);
    match &record.state.phase {
        Phase::Ended { outcome, reason } => {
            info!(%service, id, outcome = outcome.name(), reason, by, "a rollout is over");
        }
        Phase::Paused { reason, .. } => warn!(%service, id, reason, by, "a rollout waits for a person"),
        _ => info!(%service, id, step = record.state.step().map(|step| step + 1), by, "a rollout goes on"),
    }
}

/// For the journal: with what it has cost so far, of which a restart forgets the counters.
fn written(record: &Record, sight: Option<(Sides<'_>, &Sight)>) -> RolloutMemory {
    match sight.filter(|_| record.ended_ms.is_none()) {
        None => record.memory(),
        Some((sides, sight)) => {
            let receipt = record.receipt.plus(&sight.receipt(sides.candidate));
            let so_far =
                |known: &Baseline| Baseline { excess: known.excess + sight.excess(record, sides), ..known.clone() };
            Record { receipt, baseline: record.baseline.as_ref().map(so_far), ..record.clone() }.memory()
        }
    }
}

/// As a record has them.
fn texts(endpoints: &[EndpointConfig]) -> Vec<String> {
    endpoints.iter().map(ToString::to_string).collect()
}

fn is_open(records: &[Record]) -> bool {
    records.last().is_some_and(|record| !record.state.is_over())
}
