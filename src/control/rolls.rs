//! Rolls: endpoints of a backend that get nothing while a command elsewhere changes what runs there. The command's side
//! holds a lease and renews it; when it is lost, everybody is back. A roll outlives the process, since what is half
//! changed must get nothing after a restart, either.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;
use tracing::{info, warn};

use super::revision::swapped;
use super::{Control, ControlError, SELF};
use crate::journal::{Entry, Fact, Lasting};
use crate::model::{BackendName, OpenRoll, RollOutcome, ServiceName, check_revision};
use crate::state::{Backend, Change, Refused, Service, Snapshot, named_service};
use crate::upstream::Endpoint;

/// How long a roll may go without a word.
pub const ROLL_LEASE: Duration = Duration::from_secs(15);
const ROLL_LEASE_MIN: Duration = Duration::from_secs(1);
const ROLL_LEASE_MAX: Duration = Duration::from_secs(300);
/// Rolls at once, over all services.
const ROLLS_MAX: usize = 64;
/// How often it is looked whether a lease is over, and whether who is out still is: a reload may have made them anew.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A roll and when its lease ends.
#[derive(Debug)]
pub(super) struct Held {
    roll: OpenRoll,
    ends: Instant,
}

/// One that is under way, as others see it.
#[derive(Debug, Clone)]
pub struct RollSight {
    pub roll: OpenRoll,
    pub left: Duration,
}

impl Control {
    /// Begins a roll. Nobody is taken out yet.
    ///
    /// # Errors
    /// When there is no such backend, somebody else rolls it, a rollout of the service is under way, or it can't be
    /// written down.
    pub async fn begin_roll(
        self: &Arc<Self>,
        service: &str,
        backend: &str,
        lease: Duration,
        revision: Option<String>,
        by: &str,
    ) -> Result<RollSight, ControlError> {
        let refuse = |reason: String| Err(Refused::Roll(reason).into());
        if !(ROLL_LEASE_MIN..=ROLL_LEASE_MAX).contains(&lease) {
            return refuse(format!("a lease lasts from 1s to 5m, not {lease:?}"));
        }
        if let Some(revision) = &revision {
            check_revision(revision).map_err(Refused::Roll)?;
        }
        let journal = self.journal()?;
        let _turn = self.turn.take().await;
        let snapshot = self.store.current();
        let found = named_service(&snapshot, service)?;
        let (name, backend) = (found.name().clone(), named(found, backend)?.name.clone());
        if let Some(open) = found.rollout() {
            return Err(ControlError::Busy(format!(
                "rollout {} of {service} is under way; a backend is rolled before or after it",
                open.id
            )));
        }
        if let Some(other) = self.rolls().iter().find(|held| held.roll.service == name) {
            return Err(ControlError::Busy(busy(other)));
        }
        if self.rolls().len() >= ROLLS_MAX {
            return Err(ControlError::Busy(format!("{ROLLS_MAX} backends are being rolled, and no more can be")));
        }
        let id = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let lease_ms = lease.as_millis() as u64;
        let (by, out) = (by.to_owned(), Vec::new());
        let roll = OpenRoll { id, service: name, backend, by, revision, lease_ms, out };
        let fact = Fact::RollBegan {
            service: roll.service.to_string(),
            roll: id,
            backend: roll.backend.to_string(),
            revision: roll.revision.clone(),
            endpoints: named(found, roll.backend.as_str())?.endpoints.len(),
        };
        let entry = Entry::now(&roll.by, fact).with(Lasting::SetRoll(roll.clone()));
        journal.write(entry).await.map_err(ControlError::Journal)?;
        info!(service, backend = %roll.backend, by = %roll.by, "a roll begins");
        Ok(self.hold_roll(roll))
    }

    /// Renews a roll's lease and, where `out` says so, has exactly these endpoints get nothing. Once this returns, the next
    /// request on every worker sees it.
    ///
    /// # Errors
    /// When the roll is over, there is no such endpoint, nobody else of the backend would answer, or it can't be written
    /// down. The lease is renewed all the same, if there is one.
    pub async fn renew_roll(
        &self,
        service: &str,
        backend: &str,
        id: u64,
        out: Option<Vec<String>>,
    ) -> Result<RollSight, ControlError> {
        let _turn = self.turn.take().await;
        let snapshot = self.store.current();
        let roll = {
            let mut rolls = self.rolls();
            let held = found(&mut rolls, service, backend, id).ok_or_else(|| over(service, backend))?;
            held.ends = Instant::now() + Duration::from_millis(held.roll.lease_ms);
            held.roll.clone()
        };
        if let Some(out) = out {
            let service = named_service(&snapshot, service)?;
            let out = addresses(named(service, backend)?, &out)?;
            self.take_out(service, roll.clone(), out).await?;
        }
        self.roll_of(&roll.service).ok_or_else(|| over(service, backend))
    }

    async fn take_out(&self, service: &Service, was: OpenRoll, out: Vec<SocketAddr>) -> Result<(), ControlError> {
        let backend = named(service, was.backend.as_str())?;
        let minus = |all: &[SocketAddr], others: &[SocketAddr]| {
            all.iter().filter(|address| !others.contains(address)).copied().collect::<Vec<_>>()
        };
        let (taken, back) = (minus(&out, &was.out), minus(&was.out, &out));
        if taken.is_empty() && back.is_empty() {
            return Ok(());
        }
        let answers = |endpoint: &&Arc<Endpoint>| {
            !out.contains(&endpoint.identity.address)
                && (endpoint.health.is_available() || endpoint.health.is_rolling())
        };
        if !taken.is_empty() && !backend.wanted.is_zero() && !backend.endpoints.iter().any(|e| answers(&e)) {
            let names = taken.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
            return Err(Refused::Roll(format!(
                "without {names} nobody of {} would be left to answer; a backend of one endpoint is swapped under a hold: \
                 tidegate swap {}",
                was.backend, was.service
            ))
            .into());
        }
        let roll = OpenRoll { out, ..was };
        let text = |addresses: &[SocketAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (service, backend, id) = (roll.service.to_string(), roll.backend.to_string(), roll.id);
        let fact = if taken.is_empty() {
            Fact::RollPutBack { service, roll: id, backend, endpoints: text(&back) }
        } else {
            Fact::RollTookOut { service, roll: id, backend, endpoints: text(&taken) }
        };
        let entry = Entry::now(&roll.by, fact).with(Lasting::SetRoll(roll.clone()));
        let set = |rolls: &mut Vec<Held>| {
            rolls.iter_mut().filter(|held| held.roll.id == roll.id).for_each(|held| held.roll = roll.clone());
        };
        if taken.is_empty() {
            set(&mut self.rolls());
            self.note_entry(entry);
        } else {
            // After a crash it must get nothing, either.
            self.journal()?.write(entry).await.map_err(ControlError::Journal)?;
            set(&mut self.rolls());
        }
        self.see_to(&roll);
        Ok(())
    }

    /// Ends a roll; everybody is back. Where it came to its end, its revision is the backend's from now on.
    ///
    /// # Errors
    /// When there is no such roll, or not any more; or the revision can't be written down, and stays what it was.
    pub async fn end_roll(
        &self,
        service: &str,
        backend: &str,
        id: u64,
        outcome: RollOutcome,
        reason: String,
        by: &str,
    ) -> Result<(), ControlError> {
        let _turn = self.turn.take().await;
        let roll = found(&mut self.rolls(), service, backend, id).map(|held| held.roll.clone());
        let roll = roll.ok_or_else(|| over(service, backend))?;
        let entry = self.let_roll_go(&roll, outcome, reason, by);
        let revision = roll.revision.as_deref().filter(|_| outcome == RollOutcome::Completed);
        self.end_with_revision(service, revision.map(|revision| (backend, revision)), entry).await
    }

    /// Writes down how a swap under a hold went. Where it came to its end, its revision is that of the backend from now
    /// on: of the one that is named, or of the only one that gets requests.
    ///
    /// # Errors
    /// When there is no such service or backend, or the revision can't be written down, and stays what it was.
    pub async fn end_swap(
        &self,
        service: &str,
        backend: Option<&str>,
        outcome: RollOutcome,
        revision: Option<String>,
        reason: String,
        by: &str,
    ) -> Result<(), ControlError> {
        let _turn = self.turn.take().await;
        let snapshot = self.store.current();
        let found = named_service(&snapshot, service)?;
        if let Some(revision) = &revision {
            check_revision(revision).map_err(Refused::Roll)?;
        }
        let done = revision.clone().filter(|_| outcome == RollOutcome::Completed);
        let backend = match (backend, &done) {
            (None, None) => None,
            (named, _) => Some(swapped(found, named)?.name.to_string()),
        };
        let outcome = outcome.name().to_owned();
        info!(service, outcome, reason, by, "a swap is over");
        let fact = Fact::Swapped { service: service.to_owned(), backend: backend.clone(), revision, outcome, reason };
        let entry = Entry::now(by, fact);
        self.end_with_revision(service, backend.as_deref().zip(done.as_deref()), entry).await
    }

    /// The roll of a service that is under way.
    #[must_use]
    pub fn roll_of(&self, service: &ServiceName) -> Option<RollSight> {
        let rolls = self.rolls();
        let held = rolls.iter().find(|held| held.roll.service == *service)?;
        let left = held.ends.saturating_duration_since(Instant::now());
        Some(RollSight { roll: held.roll.clone(), left })
    }

    /// Takes up the rolls of before a restart: whoever holds one has a whole lease to say so.
    pub fn take_up_rolls(self: &Arc<Self>, rolls: Vec<OpenRoll>) {
        for roll in rolls {
            info!(service = %roll.service, backend = %roll.backend, out = roll.out.len(), "a roll goes on");
            self.hold_roll(roll);
        }
    }

    fn hold_roll(self: &Arc<Self>, roll: OpenRoll) -> RollSight {
        let left = Duration::from_millis(roll.lease_ms);
        self.rolls().push(Held { roll: roll.clone(), ends: Instant::now() + left });
        self.see_to(&roll);
        tokio::spawn(Arc::clone(self).watch_roll(roll.service.clone(), roll.backend.clone(), roll.id));
        RollSight { roll, left }
    }

    /// Ends a roll whose lease is lost, and has who is out stay out until then.
    async fn watch_roll(self: Arc<Self>, service: ServiceName, backend: BackendName, id: u64) {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let _turn = self.turn.take().await;
            let held = {
                let mut rolls = self.rolls();
                let held = found(&mut rolls, service.as_str(), backend.as_str(), id);
                held.map(|held| (held.roll.clone(), held.ends <= Instant::now()))
            };
            let Some((roll, is_lost)) = held else { return };
            let snapshot = self.store.current();
            let is_there = snapshot.service(service.as_str()).is_some_and(|of| of.backend(backend.as_str()).is_some());
            if !is_there {
                let reason = "the file has no such backend any more".to_owned();
                self.note_entry(self.let_roll_go(&roll, RollOutcome::Stopped, reason, SELF));
                return;
            }
            if is_lost {
                let reason = format!("nothing was heard of it for {} s", roll.lease_ms as f64 / 1000.0);
                warn!(%service, %backend, by = %roll.by, "a roll is lost, and its endpoints are back");
                self.note_entry(self.let_roll_go(&roll, RollOutcome::Lost, reason, SELF));
                return;
            }
            drop(snapshot);
            self.see_to(&roll);
        }
    }

    /// Everybody is back; what is left is to write that down.
    fn let_roll_go(&self, roll: &OpenRoll, outcome: RollOutcome, reason: String, by: &str) -> Entry {
        self.rolls().retain(|held| held.roll.id != roll.id || held.roll.service != roll.service);
        self.see_to(&OpenRoll { out: Vec::new(), ..roll.clone() });
        let (service, backend) = (roll.service.to_string(), roll.backend.to_string());
        info!(%service, %backend, outcome = outcome.name(), reason, by, "a roll is over");
        let (revision, outcome) = (roll.revision.clone(), outcome.name().to_owned());
        let fact = Fact::RollEnded { service, roll: roll.id, backend, revision, outcome, reason };
        Entry::now(by, fact).with(Lasting::EndRoll(roll.service.clone(), roll.backend.clone()))
    }

    /// Has exactly those endpoints of the backend get nothing that are out.
    fn see_to(&self, roll: &OpenRoll) {
        let snapshot = self.store.current();
        let mut changed = false;
        for endpoint in endpoints(&snapshot, roll) {
            let is_out = roll.out.contains(&endpoint.identity.address);
            if endpoint.health.is_rolling() != is_out {
                endpoint.health.set_rolling(is_out);
                changed = true;
            }
        }
        if changed {
            // Only configurations and weights are ever refused.
            drop(self.store.apply(Change::Availability(HashSet::from([roll.service.clone()]))));
        }
    }

    fn rolls(&self) -> MutexGuard<'_, Vec<Held>> {
        // Whole after a panic: nothing is changed in two steps.
        self.rolls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn endpoints<'s>(snapshot: &'s Snapshot, roll: &OpenRoll) -> impl Iterator<Item = &'s Arc<Endpoint>> {
    let backend = snapshot.service(roll.service.as_str()).and_then(|service| service.backend(roll.backend.as_str()));
    backend.into_iter().flat_map(|backend| &backend.endpoints)
}

fn named<'s>(service: &'s Service, backend: &str) -> Result<&'s Backend, Refused> {
    let known = || service.backends.iter().map(|backend| backend.name.clone()).collect();
    service.backend(backend).ok_or_else(|| Refused::NoBackend { name: backend.to_owned(), known: known() })
}

fn addresses(backend: &Backend, names: &[String]) -> Result<Vec<SocketAddr>, Refused> {
    let known = || backend.endpoints.iter().map(|endpoint| endpoint.identity.address);
    let address = |name: &String| {
        let found = known().find(|address| address.to_string() == *name);
        let refused = || Refused::NoEndpoint { name: name.clone(), known: known().map(|a| a.to_string()).collect() };
        found.ok_or_else(refused)
    };
    names.iter().map(address).collect()
}

fn found<'r>(rolls: &'r mut [Held], service: &str, backend: &str, id: u64) -> Option<&'r mut Held> {
    let is_it = |roll: &OpenRoll| roll.id == id && roll.service.as_str() == service && roll.backend.as_str() == backend;
    rolls.iter_mut().find(|held| is_it(&held.roll))
}

fn over(service: &str, backend: &str) -> ControlError {
    ControlError::Busy(format!(
        "this roll of {service}/{backend} is over: it was ended, or nothing was heard of it for as long as its lease lasts"
    ))
}

fn busy(other: &Held) -> String {
    let OpenRoll { service, backend, by, out, .. } = &other.roll;
    let out = match &out[..] {
        [] => String::new(),
        out => format!("; out at the moment: {}", out.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    };
    let left = other.ends.saturating_duration_since(Instant::now()).as_secs_f64();
    format!(
        "{by} is rolling {service}/{backend}{out}; it ends with that command, or {left:.0} s from now if nothing more is \
         heard of it"
    )
}
