//! A backend's revision after a roll or a swap: another one runs there now, at the same endpoints. A live change like a
//! deployment's, which it is a part of: requests go where they went, and whoever judges knows whom.

use std::collections::HashMap;

use tracing::info;

use super::{Control, ControlError, OTHER_REVISION};
use crate::journal::{Entry, Lasting};
use crate::model::Deployment;
use crate::state::{Backend, Change, DeployChange, Refused, Service, named_service, with_revision};

/// The backend that a swap was of: the one that is named, or the only one that has requests to lose.
pub(super) fn swapped<'s>(service: &'s Service, name: Option<&str>) -> Result<&'s Backend, Refused> {
    let known = || service.backends.iter().map(|backend| backend.name.clone()).collect();
    if let Some(name) = name {
        return service.backend(name).ok_or_else(|| Refused::NoBackend { name: name.to_owned(), known: known() });
    }
    let asked = |backend: &&Backend| !backend.wanted.is_zero() && !backend.is_drained();
    let mut asked = service.backends.iter().filter(asked);
    match (asked.next(), asked.next()) {
        (Some(only), None) => Ok(only),
        _ => Err(Refused::Roll(format!(
            "a revision is of one backend, and not one alone of {} gets requests; say \"backend\"",
            service.name()
        ))),
    }
}

impl Control {
    /// Writes down how a roll or a swap ended, and if a backend `runs` another revision since, puts that in force. The
    /// caller holds the turn.
    ///
    /// # Errors
    /// When a rollout decides what runs there, or it can't be written down. The revision stays what it was, and the end
    /// is told all the same.
    pub(super) async fn end_with_revision(
        &self,
        service: &str,
        runs: Option<(&str, &str)>,
        entry: Entry,
    ) -> Result<(), ControlError> {
        let Some((backend, revision)) = runs else {
            self.note_entry(entry);
            return Ok(());
        };
        let (before, deployment) = match self.plan_revision(service, backend, revision) {
            Ok((before, Some(deployment))) => (before, deployment),
            nothing => {
                self.note_entry(entry);
                return nothing.map(drop);
            }
        };
        let lasting = if deployment.is_none() {
            Lasting::EndDeployment(deployment.service.clone())
        } else {
            Lasting::SetDeployment(deployment.clone())
        };
        let written = match self.journal() {
            Ok(journal) => journal.write(entry.clone().with(lasting)).await.map_err(ControlError::Journal),
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            self.note_entry(entry);
            return Err(error);
        }
        // A rollback waits for nobody's turn; what it has written down since is what holds.
        if named_service(&self.store.current(), service)?.deployment.as_deref() != before.as_ref() {
            return Err(ControlError::Busy(format!(
                "a rollback came in between, and the revision of {service}/{backend} is what it says"
            )));
        }
        let change = DeployChange { deployment, weights: None, undrain: Vec::new(), resolved: HashMap::new() };
        let applied = self.store.apply(Change::Deploy(change))?;
        self.note_undrained(&applied.undrained, OTHER_REVISION);
        info!(service, backend, revision, "a backend runs another revision");
        Ok(())
    }

    /// What is deployed, and what would be; `None`: that revision is known to run there.
    fn plan_revision(
        &self,
        service: &str,
        backend: &str,
        revision: &str,
    ) -> Result<(Option<Deployment>, Option<Deployment>), ControlError> {
        let snapshot = self.store.current();
        let found = named_service(&snapshot, service)?;
        let backend = swapped(found, Some(backend))?;
        if let Some(open) = found.rollout() {
            return Err(ControlError::Busy(format!(
                "rollout {} of {service} is under way, and knows what runs there: the revision of {} stays {:?}",
                open.id, backend.name, backend.revision
            )));
        }
        let before = found.deployment.as_deref();
        let config = self.store.config();
        let file = config.services.iter().find(|file| file.name == *found.name());
        let after = file.and_then(|file| with_revision(before, file, &backend.name, revision));
        Ok((before.cloned(), after))
    }
}
