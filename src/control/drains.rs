//! Draining and undraining backends: by a person, who may be refused, and by the guard, which may not.

use std::sync::Arc;
use std::time::SystemTime;

use tracing::{info, warn};

use super::{Control, ControlError, SELF, undrained};
use crate::journal::{Entry, Fact, Lasting};
use crate::model::{Drain, GuardMode};
use crate::state::{Change, DrainPlan, Refused};

impl Control {
    /// Has a backend get no new requests until somebody undrains it. Once this returns, the next request on every worker
    /// goes elsewhere.
    ///
    /// # Errors
    /// When there is no such backend, nobody else would answer, the caller has seen an older state, or it would move
    /// traffic from stable to a candidate and can't be written down.
    pub async fn drain(
        &self,
        service: &str,
        backend: &str,
        reason: Option<String>,
        by: &str,
        expected: Option<u64>,
    ) -> Result<(), ControlError> {
        let mut plan = self.plan_drain(service, backend, expected)?;
        let mut _turn = None;
        if plan.is_stable {
            _turn = Some(self.turn.take().await);
            plan = self.plan_drain(service, backend, expected)?;
        }
        // Otherwise nothing is waited for: whoever takes traffic away from a failing backend doesn't wait for others.
        let by_person = plan.drain.as_ref().filter(|drain| drain.by.is_some());
        if by_person.is_some_and(|drain| reason.as_ref().is_none_or(|reason| *reason == drain.reason)) {
            return Ok(());
        }
        // A new reason for what is drained already moves nothing.
        let moves = by_person.is_none();
        if moves && !plan.others_answer {
            return Err(Refused::LastBackend { name: backend.to_owned() }.into());
        }
        let reason = reason.unwrap_or_else(|| "no reason given".to_owned());
        let drain = Drain {
            service: plan.service.clone(),
            backend: plan.backend.clone(),
            revision: plan.revision.to_string(),
            by: Some(by.to_owned()),
            at: SystemTime::now(),
            reason: reason.clone(),
            times: plan.drain.as_ref().map_or(0, |drain| drain.times),
            probation: None,
            until: None,
        };
        let fact = Fact::Drained {
            service: plan.service.to_string(),
            backend: plan.backend.to_string(),
            revision: drain.revision.clone(),
            reason,
            evidence: None,
        };
        let entry = Entry::now(by, fact).with(Lasting::SetDrain(drain.clone()));
        // Away from stable is toward a candidate.
        if plan.is_stable && moves {
            self.journal()?.write(entry).await.map_err(ControlError::Journal)?;
            self.store.apply(Change::Drain(drain))?;
        } else {
            self.store.apply(Change::Drain(drain))?;
            self.note_entry(entry);
        }
        info!(service, backend, by, "drained");
        Ok(())
    }

    /// Gives a backend what its weight says again.
    ///
    /// # Errors
    /// When there is no such backend, the caller has seen an older state, or it would move traffic to a candidate and
    /// can't be written down.
    pub async fn undrain(
        &self,
        service: &str,
        backend: &str,
        by: &str,
        expected: Option<u64>,
    ) -> Result<(), ControlError> {
        let _turn = self.turn.take().await;
        let plan = self.plan_drain(service, backend, expected)?;
        let Some(drain) = &plan.drain else { return Ok(()) };
        let entry = undrained(by, drain, "by hand");
        let change = Change::Undrain(Arc::clone(drain));
        if plan.is_stable {
            self.store.apply(change)?;
            self.note_entry(entry);
        } else {
            self.journal()?.write(entry).await.map_err(ControlError::Journal)?;
            self.store.apply(change)?;
        }
        info!(service, backend, by, "undrained");
        Ok(())
    }

    fn plan_drain(&self, service: &str, backend: &str, expected: Option<u64>) -> Result<DrainPlan, ControlError> {
        let plan = self.store.plan_drain(service, backend)?;
        match expected {
            Some(expected) if expected != plan.version => Err(ControlError::Outdated { now: plan.version }),
            _ => Ok(plan),
        }
    }

    /// The guard's own: made at once, whoever else is changing something, and written down when the disk lets it.
    /// Returns whether it was made; it isn't where the backend is gone, is of another revision now, is drained already, or
    /// has become stable.
    pub fn drain_by_guard(&self, drain: Drain, evidence: serde_json::Value) -> bool {
        if !self.may_still(&drain, |was| was.probation.is_some())
            || self.store.apply(Change::Drain(drain.clone())).is_err()
        {
            return false;
        }
        let (service, backend) = (drain.service.to_string(), drain.backend.to_string());
        warn!(%service, %backend, revision = %drain.revision, reason = %drain.reason, "the guard has drained a backend");
        let (revision, reason) = (drain.revision.clone(), drain.reason.clone());
        let fact = Fact::Drained { service, backend, revision, reason, evidence: Some(evidence) };
        // The moment of the verdict, not when it was in force.
        let entry = Entry { at: drain.at, ..Entry::now(SELF, fact) };
        self.note_entry(entry.with(Lasting::SetDrain(drain)));
        true
    }

    /// The guard's word for a backend that stands still: it gets nothing until it is resumed. Not written down as
    /// something that must hold: a restart gives it another chance.
    pub fn suspend(&self, drain: Drain, for_ms: u64, evidence: serde_json::Value) -> bool {
        if !self.may_still(&drain, |_| false) || self.store.apply(Change::Drain(drain.clone())).is_err() {
            return false;
        }
        let (service, backend) = (drain.service.to_string(), drain.backend.to_string());
        warn!(%service, %backend, reason = %drain.reason, "a backend stands still and gets nothing for a while");
        let (revision, reason) = (drain.revision, drain.reason);
        self.note_entry(Entry::now(SELF, Fact::Suspended { service, backend, revision, reason, for_ms, evidence }));
        true
    }

    /// Whether the guard's word still fits: the same revision is there, somebody else answers, and no drain holds but one
    /// that it `may_replace`.
    fn may_still(&self, drain: &Drain, may_replace: impl Fn(&Drain) -> bool) -> bool {
        let plan = self.store.plan_drain(drain.service.as_str(), drain.backend.as_str());
        plan.is_ok_and(|plan| {
            let is_free = plan.drain.as_deref().is_none_or(may_replace);
            *plan.revision == *drain.revision && is_free && !plan.is_stable && plan.others_answer
        })
    }

    /// Ends a suspension, if it is still what holds.
    pub fn resume(&self, drain: &Arc<Drain>) {
        let applied = self.store.apply(Change::Undrain(Arc::clone(drain)));
        if applied.is_ok_and(|applied| !applied.undrained.is_empty()) {
            let (service, backend) = (drain.service.to_string(), drain.backend.to_string());
            info!(%service, %backend, "a backend that stood still gets requests again");
            self.note_entry(Entry::now(SELF, Fact::Resumed { service, backend, revision: drain.revision.clone() }));
        }
    }

    /// Gives a backend that the guard has drained a share of requests to prove itself.
    ///
    /// # Errors
    /// When it can't be written down.
    pub async fn begin_probation(&self, drain: &Arc<Drain>, share: f64) -> Result<(), ControlError> {
        let journal = self.journal()?;
        let _turn = self.turn.take().await;
        let (service, backend) = (drain.service.as_str(), drain.backend.as_str());
        // A person or a new file may have been quicker.
        if self.store.plan_drain(service, backend)?.drain.as_ref() != Some(drain) {
            return Ok(());
        }
        let fact = Fact::ProbationBegan {
            service: service.to_owned(),
            backend: backend.to_owned(),
            revision: drain.revision.clone(),
            share,
        };
        let trial = Drain { probation: Some(share), at: SystemTime::now(), ..(**drain).clone() };
        let entry = Entry::now(SELF, fact).with(Lasting::SetDrain(trial.clone()));
        journal.write(entry).await.map_err(ControlError::Journal)?;
        self.store.apply(Change::Drain(trial))?;
        info!(service, backend, share, "a drained backend gets a few requests to prove itself");
        Ok(())
    }

    /// A backend on probation has proven itself.
    ///
    /// # Errors
    /// When it can't be written down.
    pub async fn end_probation(&self, drain: &Arc<Drain>) -> Result<(), ControlError> {
        let journal = self.journal()?;
        let _turn = self.turn.take().await;
        let (service, backend) = (drain.service.as_str(), drain.backend.as_str());
        if self.store.plan_drain(service, backend)?.drain.as_ref() != Some(drain) {
            return Ok(());
        }
        let entry = undrained(SELF, drain, "it did well on probation");
        journal.write(entry).await.map_err(ControlError::Journal)?;
        self.store.apply(Change::Undrain(Arc::clone(drain)))?;
        info!(service, backend, "undrained: it did well on probation");
        Ok(())
    }

    /// What the guard may do everywhere, and word of each change; `None`: what the file says.
    #[must_use]
    pub fn guard(&self) -> tokio::sync::watch::Receiver<Option<GuardMode>> {
        self.guard.subscribe()
    }

    /// Says what the guard may do everywhere, whatever the file says; `None`: what the file says.
    pub async fn set_guard(&self, mode: Option<GuardMode>, by: &str) {
        let _turn = self.turn.take().await;
        let told = |mode: Option<GuardMode>| mode.map_or("file", GuardMode::name).to_owned();
        let before = self.guard.send_replace(mode);
        if before != mode {
            let fact = Fact::GuardChanged { from: told(before), to: told(mode) };
            // Whoever stops the guard in an emergency doesn't wait for a disk.
            self.note_entry(Entry::now(by, fact).with(Lasting::SetGuard(mode)));
            info!(from = %told(before), to = %told(mode), by, "what the guard may do was changed");
        }
    }
}
