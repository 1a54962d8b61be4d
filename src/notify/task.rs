//! Telling the sinks: one task for each, and one that sees to it that those run which the file names.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::RETRY_AFTER;
use rand::RngExt;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::outbox::{Attempt, Outbox, Skipped};
use super::payload::{call as payload, is_wanted};
use crate::config::{Config, SinkConfig};
use crate::control::Control;
use crate::journal::{Event, Fact, Journal, Query, WriteError};
use crate::observe::{NotifyMetrics, SinkMetrics};
use crate::outbound::{Answer, CallError, call};

/// How often it is looked whether the file names other sinks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Events read at once.
const PAGE: usize = 100;
/// When the journal couldn't be read.
const READ_PAUSE: Duration = Duration::from_secs(1);
/// Between two events about what a sink has missed, for as long as it hears nothing: they are events that others may miss,
/// and so on.
const SKIPPED_INTERVAL: Duration = Duration::from_secs(60);
/// How far a sink has come is written down at most so late, where it heard of nothing: a restart reads that much again.
const CURSOR_LAG_MAX: u64 = 1_000;

/// Tells everybody that the file names.
#[derive(Debug)]
pub struct Notifier {
    control: Arc<Control>,
    journal: Journal,
    metrics: Arc<NotifyMetrics>,
    /// How far each sink had come, by name.
    cursors: HashMap<String, u64>,
    running: BTreeMap<String, Running>,
    config: Option<Arc<Config>>,
}

/// One sink's task.
#[derive(Debug)]
struct Running {
    task: AbortHandle,
    /// Where it stands.
    cursor: watch::Receiver<u64>,
}

impl Notifier {
    /// `cursors`: how far each sink had come before.
    #[must_use]
    pub fn new(
        control: Arc<Control>,
        journal: Journal,
        metrics: Arc<NotifyMetrics>,
        cursors: HashMap<String, u64>,
    ) -> Self {
        Self { control, journal, metrics, cursors, running: BTreeMap::new(), config: None }
    }

    /// Sees to the sinks for as long as the process lives.
    pub async fn run(mut self) {
        loop {
            let config = self.control.store().config();
            if self.config.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &config)) {
                self.take_up(&config);
                self.config = Some(config);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Has those run that the file names, each from where it stood.
    fn take_up(&mut self, config: &Config) {
        for (name, running) in std::mem::take(&mut self.running) {
            // What was on its way is told again.
            running.task.abort();
            self.cursors.insert(name, *running.cursor.borrow());
        }
        let named = |name: &String| config.notify.iter().any(|sink| sink.name == *name);
        let gone: Vec<String> = self.cursors.keys().filter(|name| !named(name)).cloned().collect();
        for name in gone {
            info!(sink = name, "nobody is told by this name any more");
            self.cursors.remove(&name);
            self.journal.forget_cursor(name);
        }
        self.metrics.keep(|name| config.notify.iter().any(|sink| sink.name == name));
        for sink in &config.notify {
            // Whoever is new hears of what happens from now on.
            let known = self.cursors.get(&sink.name).copied();
            let cursor = known.unwrap_or_else(|| *self.journal.latest().borrow());
            if known.is_none() {
                self.journal.remember_cursor(sink.name.clone(), cursor);
            }
            let (tell, heard) = watch::channel(cursor);
            let telling = Telling {
                outbox: Outbox::new(cursor, sink.backlog),
                sink: sink.clone(),
                journal: self.journal.clone(),
                control: Arc::clone(&self.control),
                metrics: self.metrics.sink(&sink.name),
                cursor: tell,
                written: cursor,
                is_ahead: false,
                failing: None,
                untold: None,
                told_skipped: None,
            };
            let task = tokio::spawn(telling.run()).abort_handle();
            self.running.insert(sink.name.clone(), Running { task, cursor: heard });
        }
    }
}

/// One sink, and what it has to hear.
#[derive(Debug)]
struct Telling {
    sink: SinkConfig,
    outbox: Outbox,
    journal: Journal,
    control: Arc<Control>,
    metrics: Arc<SinkMetrics>,
    cursor: watch::Sender<u64>,
    /// The cursor that the journal has.
    written: u64,
    /// It is done with events that the journal doesn't know of.
    is_ahead: bool,
    /// Since when the oldest event couldn't be delivered.
    failing: Option<Instant>,
    /// What it has missed, and the history doesn't say yet.
    untold: Option<Skipped>,
    /// When the history was last told.
    told_skipped: Option<Instant>,
}

impl Telling {
    async fn run(mut self) {
        let mut latest = self.journal.latest();
        let mut due = Instant::now();
        loop {
            if let Err(error) = self.read(&mut latest).await {
                // It ends with the journal.
                if latest.has_changed().is_err() {
                    return;
                }
                warn!(sink = self.sink.name, %error, "what happened can't be read, and so not told");
                tokio::time::sleep(READ_PAUSE).await;
                continue;
            }
            let Some(oldest) = self.outbox.oldest().cloned() else {
                if latest.changed().await.is_err() {
                    return;
                }
                continue;
            };
            if due > Instant::now() {
                // More may come meanwhile, so that the oldest have to go.
                tokio::select! {
                    () = sleep_until(due) => {}
                    changed = latest.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        continue;
                    }
                }
            }
            due = Instant::now() + self.tell(&oldest).await;
        }
    }

    /// Takes in what the journal has, page by page.
    async fn read(&mut self, latest: &mut watch::Receiver<u64>) -> Result<(), WriteError> {
        let newest = *latest.borrow_and_update();
        while self.outbox.read_to() < newest {
            let query = Query { after: Some(self.outbox.read_to()), limit: PAGE, ..Query::default() };
            let page = self.journal.read(query).await?;
            if page.events.is_empty() {
                break;
            }
            let oldest = self.outbox.oldest().map(|event| event.id);
            self.outbox.take_in(page.events, |event| is_wanted(&self.sink, event));
            // The time of another one begins; it is failing all the same.
            if oldest.is_some() && self.outbox.oldest().map(|event| event.id) != oldest {
                self.failing = self.failing.map(|_| Instant::now());
            }
            self.note();
        }
        Ok(())
    }

    /// Tries to deliver the oldest; how long to wait before the next attempt.
    async fn tell(&mut self, event: &Event) -> Duration {
        let Some(message) = payload(&self.sink, event) else { return self.tried(Attempt::Delivered) };
        let attempt = match call(&self.sink.to, message).await {
            Ok(answer) => judged(&answer),
            Err(error @ CallError::Malformed(_)) => Attempt::Refused(error.to_string()),
            Err(error) => Attempt::Failed { reason: error.to_string(), retry_after: None },
        };
        self.tried(attempt)
    }

    fn tried(&mut self, attempt: Attempt) -> Duration {
        let is_delivered = attempt == Attempt::Delivered;
        if is_delivered {
            self.metrics.delivered();
            if self.failing.is_some() {
                info!(sink = self.sink.name, "events can be told again");
            }
        } else {
            self.metrics.failed();
            if self.failing.is_none() {
                let (Attempt::Failed { reason, .. } | Attempt::Refused(reason)) = &attempt else {
                    return Duration::ZERO;
                };
                warn!(sink = self.sink.name, to = %self.sink.to, reason, "an event can't be told");
            }
        }
        let since = *self.failing.get_or_insert_with(Instant::now);
        let waiting = self.outbox.waiting();
        let wait = self.outbox.tried(attempt, since.elapsed(), self.sink.retry);
        if self.outbox.waiting() < waiting {
            (self.failing, self.is_ahead) = (None, true);
        }
        self.note();
        // Those who failed together don't come back together.
        wait.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Writes down how far it has come, and says what it will never hear.
    fn note(&mut self) {
        self.metrics.waiting(self.outbox.waiting() as u64);
        let cursor = self.outbox.cursor();
        self.cursor.send_replace(cursor);
        // What it didn't want to hear is read again after a restart, up to a point.
        if self.is_ahead || cursor >= self.written + CURSOR_LAG_MAX {
            self.journal.remember_cursor(self.sink.name.clone(), cursor);
            (self.written, self.is_ahead) = (cursor, false);
        }
        if let Some(skipped) = self.outbox.take_skipped() {
            self.metrics.skipped(skipped.events);
            self.untold = Some(skipped.after(self.untold.take()));
        }
        let may_tell = self.failing.is_none() || self.told_skipped.is_none_or(|at| at.elapsed() >= SKIPPED_INTERVAL);
        if let Some(skipped) = self.untold.take_if(|_| may_tell) {
            self.told_skipped = Some(Instant::now());
            let (sink, reason) = (self.sink.name.clone(), skipped.reason);
            warn!(sink, events = skipped.events, reason, "events were skipped");
            let (events, first, last) = (skipped.events, skipped.first, skipped.last);
            self.control.note(Fact::NotifySkipped { sink, events, first, last, reason });
        }
    }
}

/// What an answer means.
fn judged(answer: &Answer) -> Attempt {
    let status = answer.status;
    let reason = format!("it answered {status}");
    let is_temporary = status.is_server_error()
        || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS].contains(&status);
    if status.is_success() {
        Attempt::Delivered
    } else if is_temporary {
        let seconds = answer.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        Attempt::Failed { reason, retry_after: seconds.map(Duration::from_secs) }
    } else {
        Attempt::Refused(reason)
    }
}
