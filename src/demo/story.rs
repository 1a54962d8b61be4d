//! What happens while the traffic flows: four acts, one after the other.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{self, error::SendError};
use tokio::sync::watch;

use super::backends::{DEPLOYMENTS, NEXT, NEXT_BROKEN};
use super::breakdown::Breakdown;
use super::canary::Canary;
use super::chronicle::Chronicle;
use super::fault::Fault;
use super::flip::Flip;
use super::invocation::Invocation;
use super::line::Line;
use super::rehearsal::Rehearsal;
use super::release::Release;
use crate::cli::Client;
use crate::journal::Event;
use crate::model::Strategy;

/// Before each act.
const PAUSE: Duration = Duration::from_secs(2);
/// What all pauses together may take of a demo that ends by itself: two fifths.
const PAUSES_IN_TEN: u32 = 10;

/// Where the acts' lines go.
pub(super) type Teller = mpsc::Sender<Vec<Line>>;

/// What the acts are played with.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) client: Client,
    pub(super) invocation: Invocation,
    /// Where green answers, and what comes after it.
    pub(super) green: SocketAddr,
    pub(super) next: SocketAddr,
    /// What comes after green fails.
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
        let (compared, verdicts) = watch::channel(None);
        let chronicle = Chronicle { started: self.started, teller: self.teller.clone(), compared };
        // An error says that the demo is over.
        let _ = tokio::join!(self.acts(pause(lasts), verdicts), chronicle.keep(&self.client));
    }

    async fn acts(
        &self,
        pause: Duration,
        compared: watch::Receiver<Option<Event>>,
    ) -> Result<(), SendError<Vec<Line>>> {
        let (invocation, client) = (&self.invocation, || self.client.clone());
        tokio::time::sleep(pause).await;
        let rehearsal = Rehearsal { client: client(), mistake: self.mistake.clone(), compared };
        self.teller.send(Rehearsal::announcement(invocation)).await?;
        if let Some(lines) = rehearsal.run(invocation).await {
            self.teller.send(lines).await?;
        }

        tokio::time::sleep(pause).await;
        Rehearsal::end(&self.client).await;
        let release = Release { revision: DEPLOYMENTS[1].revision, endpoint: self.green, strategy: None };
        let canary = Canary { client: client(), release };
        self.teller.send(canary.announcement(invocation)).await?;
        self.teller.send(canary.run().await).await?;

        tokio::time::sleep(pause).await;
        let release = Release { revision: NEXT_BROKEN, endpoint: self.next, strategy: None };
        let breakdown = Breakdown { client: client(), release, fault: self.fault.clone() };
        self.teller.send(breakdown.announcement(invocation)).await?;
        self.teller.send(breakdown.run(invocation).await).await?;

        tokio::time::sleep(pause).await;
        let strategy = Some(Strategy::BlueGreen);
        let flip =
            Flip { client: client(), release: Release { revision: NEXT.revision, endpoint: self.next, strategy } };
        self.teller.send(flip.announcement(invocation)).await?;
        self.teller.send(flip.run(invocation).await).await
    }
}

/// In a demo that `lasts` only so long, acts come early enough for their effect to be seen.
fn pause(lasts: Option<Duration>) -> Duration {
    lasts.map_or(PAUSE, |lasts| PAUSE.min(lasts / PAUSES_IN_TEN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_acts_come_the_earlier_the_less_time_there_is() {
        assert_eq!(pause(None), PAUSE);
        assert_eq!(pause(Some(Duration::from_secs(20))), PAUSE);
        assert_eq!(pause(Some(Duration::from_secs(5))), Duration::from_millis(500));
    }
}
