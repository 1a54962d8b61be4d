//! Holding a service's new requests while something is swapped underneath. Nothing of it outlives the process: after a
//! restart nobody is held.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::info;

use super::{Control, ControlError, SELF};
use crate::journal::{Entry, Fact};
use crate::state::{Change, Hold, Refused, Snapshot, named_service};

/// Clients rarely wait longer than this, and a hold that is forgotten must end.
const HOLD_TIME_MAX: Duration = Duration::from_secs(300);
/// Requests of a service that wait at once: as many as anybody asks for, and where nobody does.
const HOLD_REQUESTS_MAX: u64 = 100_000;
pub const HOLD_REQUESTS: u64 = 10_000;

impl Control {
    /// Has a service's new requests wait for at most `time`, at most so many at once; what is said of a service that is
    /// held already replaces what was said before.
    ///
    /// # Errors
    /// When there is no such service, the numbers are out of bounds, or tidegate is stopping.
    pub async fn hold(
        self: &Arc<Self>,
        name: &str,
        time: Duration,
        requests: u64,
        by: &str,
    ) -> Result<(), ControlError> {
        if time < Duration::from_millis(1) || time > HOLD_TIME_MAX {
            return Err(Refused::Hold(format!("a hold lasts from 1ms to 5m, not {time:?}")).into());
        }
        if !(1..=HOLD_REQUESTS_MAX).contains(&requests) {
            return Err(Refused::Hold(format!("1 to {HOLD_REQUESTS_MAX} requests can wait, not {requests}")).into());
        }
        let _turn = self.turn.take().await;
        if self.stopping.load(Ordering::Relaxed) {
            return Err(ControlError::Stopping);
        }
        if let Some(hold) = self.held(name)? {
            hold.renew(time, requests);
        } else {
            let hold = Hold::new(time, requests);
            self.store.apply(Change::Hold { service: name.to_owned(), hold: Arc::clone(&hold) })?;
            tokio::spawn(Arc::clone(self).end_in_time(name.to_owned(), hold));
        }
        info!(service = name, ?time, requests, by, "new requests of a service are held");
        let fact = Fact::Held { service: name.to_owned(), seconds: time.as_secs_f64(), requests };
        self.note_entry(Entry::now(by, fact));
        Ok(())
    }

    /// Lets the requests of a service go, in order. Nothing happens to one that isn't held.
    ///
    /// # Errors
    /// When there is no such service.
    pub async fn release(&self, name: &str, by: &str) -> Result<(), ControlError> {
        let _turn = self.turn.take().await;
        if let Some(hold) = self.held(name)? {
            self.let_go(name, &hold, by)?;
        }
        Ok(())
    }

    /// Lets everybody go, and has nobody wait from now on: who drains finishes what there is.
    pub async fn release_all(&self) {
        let _turn = self.turn.take().await;
        self.stopping.store(true, Ordering::Relaxed);
        for service in &self.store.current().services {
            if let Some(hold) = &service.hold {
                // The snapshot has the service.
                let _ = self.let_go(service.name().as_str(), hold, SELF);
            }
        }
    }

    /// Writes down what ended because its service went with the old file.
    pub(super) fn note_orphaned_holds(&self, before: &Snapshot) {
        for service in &before.services {
            if let Some(hold) = service.hold.as_ref().filter(|hold| hold.is_over()) {
                self.note_released(service.name().as_str(), hold, SELF);
            }
        }
    }

    fn held(&self, name: &str) -> Result<Option<Arc<Hold>>, Refused> {
        Ok(named_service(&self.store.current(), name)?.hold.clone())
    }

    async fn end_in_time(self: Arc<Self>, name: String, hold: Arc<Hold>) {
        while !hold.is_over() {
            tokio::select! {
                () = tokio::time::sleep_until(hold.ends()) => {}
                () = hold.renewed() => continue,
                () = hold.over() => return,
            }
            let _turn = self.turn.take().await;
            // It may have been renewed, or released, meanwhile.
            if hold.ends() <= tokio::time::Instant::now() && !hold.is_over() {
                // Where the service is gone the hold is over.
                let _ = self.let_go(&name, &hold, SELF);
            }
        }
    }

    fn let_go(&self, name: &str, hold: &Hold, by: &str) -> Result<(), Refused> {
        self.store.apply(Change::Release { service: name.to_owned() })?;
        self.note_released(name, hold, by);
        Ok(())
    }

    fn note_released(&self, name: &str, hold: &Hold, by: &str) {
        let counts = hold.counts();
        let (waited, gave_up, refused) = (counts.waited, counts.gave_up, counts.refused);
        info!(service = name, waited, gave_up, refused, by, "a service is no longer held");
        self.note_entry(Entry::now(by, Fact::Released { service: name.to_owned(), waited, gave_up, refused }));
    }
}
