//! What happens while the traffic flows: three acts, one after the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{self, error::SendError};
use tokio::sync::watch;

use super::breakdown::Breakdown;
use super::chronicle::Chronicle;
use super::fault::Fault;
use super::invocation::Invocation;
use super::line::Line;
use super::rehearsal::Rehearsal;
use super::release;
use super::traffic::Tally;
use crate::cli::Client;
use crate::journal::Event;
use crate::state::Store;

/// Before each act.
const PAUSE: Duration = Duration::from_secs(4);
const ACTS: u32 = 3;

/// Where the acts' lines go.
pub(super) type Teller = mpsc::Sender<Vec<Line>>;

/// What the acts are played with.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) client: Client,
    pub(super) invocation: Invocation,
    pub(super) store: Arc<Store>,
    pub(super) tally: Arc<Tally>,
    /// The canary's.
    pub(super) fault: Fault,
    /// Green's.
    pub(super) mistake: Fault,
    /// When the show began.
    pub(super) started: Instant,
    pub(super) teller: Teller,
}

impl Story {
    /// Plays all acts, and tells meanwhile what the proxy does by itself.
    pub(super) async fn play(self, lasts: Option<Duration>) {
        let (drained, drains) = watch::channel(None);
        let (compared, verdicts) = watch::channel(None);
        let chronicle = Chronicle { started: self.started, teller: self.teller.clone(), drained, compared };
        // An error says that the demo is over.
        let _ = tokio::join!(self.acts(pause(lasts), drains, verdicts), chronicle.keep(&self.client));
    }

    async fn acts(
        &self,
        pause: Duration,
        drained: watch::Receiver<Option<Event>>,
        compared: watch::Receiver<Option<Event>>,
    ) -> Result<(), SendError<Vec<Line>>> {
        tokio::time::sleep(pause).await;
        let (client, mistake) = (self.client.clone(), self.mistake.clone());
        let rehearsal = Rehearsal { client, mistake, compared };
        self.teller.send(Rehearsal::announcement(&self.invocation)).await?;
        if let Some(lines) = rehearsal.run(&self.invocation).await {
            self.teller.send(lines).await?;
        }

        tokio::time::sleep(pause).await;
        Rehearsal::end(&self.client).await;
        self.teller.send(release::announcement(&self.invocation)).await?;
        self.teller.send(release::shift(&self.client).await).await?;

        tokio::time::sleep(pause).await;
        let (store, tally, fault) = (Arc::clone(&self.store), Arc::clone(&self.tally), self.fault.clone());
        let breakdown = Breakdown { store, tally, fault, drained };
        breakdown.opportunity().await;
        self.teller.send(Breakdown::announcement()).await?;
        if let Some(lines) = breakdown.run(&self.invocation).await {
            self.teller.send(lines).await?;
        }
        Ok(())
    }
}

/// In a demo that `lasts` only so long, acts come early enough for their effect to be seen.
fn pause(lasts: Option<Duration>) -> Duration {
    lasts.map_or(PAUSE, |lasts| PAUSE.min(lasts / (ACTS + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_acts_leave_time_to_look_at_what_came_of_them() {
        let last = |lasts| pause(lasts) * ACTS;
        assert_eq!(last(None), Duration::from_secs(12));
        assert_eq!(last(Some(Duration::from_secs(20))), Duration::from_secs(12));
        assert_eq!(last(Some(Duration::from_secs(12))), Duration::from_secs(9));
        assert_eq!(last(Some(Duration::from_secs(4))), Duration::from_secs(3));
    }
}
