//! Reading the history for the four keys, and keeping the metrics of the last days.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::warn;

use super::keys::{DoraView, KINDS, KeysView, keys};
use crate::journal::{Event, Journal, Query, WriteError};
use crate::observe::{DoraMetrics, DoraSample};

/// What is looked at unless somebody asks for more or less.
pub const DAYS: u32 = 30;
/// Events read at once.
const PAGE: usize = 1_000;
/// After something has happened; a burst is looked at once.
const PAUSE: Duration = Duration::from_secs(1);
/// What happened long ago falls out of the last days also where nothing happens.
const LOOK_INTERVAL: Duration = Duration::from_secs(600);

/// The keys of one service, or of all, over the last days.
///
/// # Errors
/// When the history can't be read.
pub async fn read(journal: &Journal, days: u32, service: Option<String>) -> Result<DoraView, WriteError> {
    let since = SystemTime::now().checked_sub(Duration::from_secs(u64::from(days) * 86_400)).unwrap_or(UNIX_EPOCH);
    let (mut events, mut after): (Vec<Event>, u64) = (Vec::new(), 0);
    loop {
        let query = Query {
            after: Some(after),
            service: service.clone(),
            kinds: KINDS.map(str::to_owned).to_vec(),
            since: Some(since),
            limit: PAGE,
            ..Query::default()
        };
        let page = journal.read(query).await?;
        after = page.events.last().map_or(after, |event| event.id);
        events.extend(page.events);
        if !page.more {
            return Ok(keys(&events, days));
        }
    }
}

/// Keeps the metrics up to date.
#[derive(Debug)]
pub struct Gauges {
    journal: Journal,
    metrics: Arc<DoraMetrics>,
}

impl Gauges {
    #[must_use]
    pub fn new(journal: Journal, metrics: Arc<DoraMetrics>) -> Self {
        Self { journal, metrics }
    }

    /// Looks for as long as the journal lives.
    pub async fn run(self) {
        let mut latest = self.journal.latest();
        loop {
            let seen = *latest.borrow_and_update();
            match read(&self.journal, DAYS, None).await {
                Ok(view) => self.metrics.set(view.services.into_iter().map(sample).collect()),
                Err(error) => warn!(%error, "the history can't be read for the four keys"),
            }
            tokio::select! {
                is_open = self.happens(&mut latest, seen) => if !is_open { return },
                () = sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    /// Waits until something has happened that counts; false: the journal has ended.
    async fn happens(&self, latest: &mut watch::Receiver<u64>, mut seen: u64) -> bool {
        while latest.changed().await.is_ok() {
            sleep(PAUSE).await;
            let now = *latest.borrow_and_update();
            let kinds = KINDS.map(str::to_owned).to_vec();
            let query = Query { after: Some(seen), kinds, limit: 1, ..Query::default() };
            if self.journal.read(query).await.is_ok_and(|page| !page.events.is_empty()) {
                return true;
            }
            seen = now;
        }
        false
    }
}

fn sample(keys: KeysView) -> DoraSample {
    DoraSample {
        service: keys.service,
        deployments: keys.deployments,
        deployments_per_day: keys.deployments_per_day,
        lead_time_seconds: keys.lead_time_seconds,
        change_failure_ratio: keys.change_failure_ratio,
        time_to_restore_seconds: keys.time_to_restore_seconds,
    }
}
