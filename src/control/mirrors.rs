//! How much of a service is mirrored, changed live.

use tracing::info;

use super::{Control, ControlError, SELF};
use crate::journal::{Entry, Fact, Lasting};
use crate::model::{LiveMirror, Percent};
use crate::state::{Change, MirrorPlan, Refused};

impl Control {
    /// Sets which share of a service's requests is copied to a backend; the file's, when none is given. Once this
    /// returns, the next request on every worker sees it. More copies are written down before there are any, fewer
    /// after.
    ///
    /// # Errors
    /// When there is no such mirror, the share is none, the caller has seen an older state, or more copies can't be
    /// written down.
    pub async fn set_mirror(
        &self,
        service: &str,
        backend: &str,
        percent: Option<f64>,
        by: &str,
        expected: Option<u64>,
    ) -> Result<(), ControlError> {
        let journal = self.journal()?;
        let percent = percent.map(Percent::new).transpose().map_err(|error| Refused::Percent(error.to_string()))?;
        let _turn = self.turn.take().await;
        let plan = self.store.plan_mirror(service, backend)?;
        if expected.is_some_and(|expected| expected != plan.revision) {
            return Err(ControlError::Outdated { now: plan.revision });
        }
        if let Some(open) = &plan.rollout {
            return Err(ControlError::RolloutUnderWay { service: service.to_owned(), id: open.id });
        }
        let to = percent.unwrap_or(plan.configured);
        if to == plan.from {
            return Ok(());
        }
        let change = Change::Mirror { service: plan.service.clone(), backend: plan.backend.clone(), percent };
        let entry = entry(&plan, to, by);
        if to.value() < plan.from.value() {
            self.store.apply(change)?;
            journal.write_later(entry);
        } else {
            journal.write(entry).await.map_err(ControlError::Journal)?;
            self.store.apply(change)?;
        }
        info!(service, backend, percent = to.value(), by, "the share of a mirror changed");
        Ok(())
    }

    /// Writes down that a live share ended because the file changed.
    pub(super) fn note_unmirrored(&self, live: &LiveMirror) {
        let (service, backend) = (&live.service, &live.backend);
        info!(%service, %backend, "a live share of a mirror ended: the file's changed, or the mirror is gone");
        let fact = Fact::MirrorEnded {
            service: service.to_string(),
            backend: backend.to_string(),
            percent: live.percent.value(),
        };
        self.note_entry(Entry::now(SELF, fact).with(Lasting::EndMirror(service.clone(), backend.clone())));
    }
}

fn entry(plan: &MirrorPlan, to: Percent, by: &str) -> Entry {
    let (service, backend) = (plan.service.clone(), plan.backend.clone());
    let fact = Fact::MirrorChanged {
        service: service.to_string(),
        backend: backend.to_string(),
        from: plan.from.value(),
        to: to.value(),
    };
    let lasting = if to == plan.configured {
        Lasting::EndMirror(service, backend)
    } else {
        Lasting::SetMirror(LiveMirror { service, backend, percent: to, replaced: plan.configured })
    };
    Entry::now(by, fact).with(lasting)
}
