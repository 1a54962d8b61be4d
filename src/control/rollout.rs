//! What a rollout changes: weights, what is deployed, and which backend is stable, in one snapshot and one entry of the
//! journal. Toward the candidate it is written first, toward stable it is made first, as ever.

use super::{Control, ControlError, OTHER_REVISION, lasting};
use crate::journal::{Entry, Lasting};
use crate::model::Deployment;
use crate::state::{Change, DeployChange, Refused};

impl Control {
    /// Goes toward the candidate: written down, then put in force. `entry` says what happened and how the rollout stands;
    /// what else must hold is added here. `expected`: the service's revision that the caller has seen.
    ///
    /// # Errors
    /// When it doesn't fit the configuration, the caller has seen an older state, or it can't be written down. Nothing
    /// has changed then.
    pub async fn advance(&self, change: DeployChange, entry: Entry, expected: Option<u64>) -> Result<(), ControlError> {
        let journal = self.journal()?;
        let _turn = self.turn.take().await;
        let entry = self.lasting_entry(&change, entry, expected)?;
        journal.write(entry).await.map_err(ControlError::Journal)?;
        let reason = if change.undrain.is_empty() { OTHER_REVISION } else { "it is tried again" };
        let applied = self.store.apply(Change::Deploy(change))?;
        self.note_undrained(&applied.undrained, reason);
        Ok(())
    }

    /// Goes toward stable: put in force at once, and written down when the disk lets it. Waits for nobody.
    ///
    /// # Errors
    /// When it doesn't fit the configuration: the file has changed.
    pub fn retreat(&self, change: DeployChange, entry: Entry) -> Result<(), ControlError> {
        let entry = self.lasting_entry(&change, entry, None)?;
        let applied = self.store.apply(Change::Deploy(change))?;
        self.note_undrained(&applied.undrained, OTHER_REVISION);
        self.note_entry(entry);
        Ok(())
    }

    /// Writes down something about a rollout that changes nothing that requests see.
    pub fn note_rollout(&self, entry: Entry) {
        self.note_entry(entry);
    }

    fn lasting_entry(&self, change: &DeployChange, entry: Entry, expected: Option<u64>) -> Result<Entry, ControlError> {
        let Deployment { service, rollout, .. } = &change.deployment;
        let plan = match &change.weights {
            Some(weights) => self.store.plan(service.as_str(), Some(weights))?,
            None => self.store.plan(service.as_str(), None)?,
        };
        if let Some(now) = expected.and_then(|expected| (expected != plan.revision).then_some(plan.revision)) {
            return Err(ControlError::Outdated { now });
        }
        let known = |name: &crate::model::BackendName| plan.from.iter().any(|(known, _)| known == name);
        if let Some(open) = rollout.as_ref().filter(|open| !known(&open.candidate)) {
            let known = plan.from.iter().map(|(name, _)| name.clone()).collect();
            return Err(Refused::NoBackend { name: open.candidate.to_string(), known }.into());
        }
        let mut entry = entry.with(if change.deployment.is_none() {
            Lasting::EndDeployment(service.clone())
        } else {
            Lasting::SetDeployment(change.deployment.clone())
        });
        if change.weights.is_some() {
            entry = entry.with(lasting(&plan));
        }
        for backend in &change.undrain {
            entry = entry.with(Lasting::EndDrain(service.clone(), backend.clone()));
        }
        Ok(entry)
    }
}
