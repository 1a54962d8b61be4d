//! The journal's thread, and the handle on it. SQLite blocks, so nothing else waits on that thread's disk but who
//! must.

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tracing::{error, info, warn};

use super::database::{Database, Kept, OpenError, Page, Query};
use super::event::{Entry, ShadowMemory, TrialMemory};
use crate::observe::JournalMetrics;

/// Jobs that may wait for the thread. People and deciders make a handful a second.
const JOBS_MAX: usize = 1024;
/// Entries that wait for a disk that refuses them; the oldest that only tell something go first.
const BACKLOG_MAX: usize = 4096;
/// How long until a refused entry is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Why something was not written or read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteError(String);

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the journal can't be used: {}; is the disk of state_dir full or read-only?", self.0)
    }
}

impl std::error::Error for WriteError {}

enum Job {
    /// Acknowledged once it is on the disk.
    Write(Box<Entry>, oneshot::Sender<Result<u64, WriteError>>),
    /// Written sooner or later.
    Later(Box<Entry>),
    Remember(Vec<TrialMemory>),
    /// How far a sink has come; `None`: there is no such sink any more.
    Cursor(String, Option<u64>),
    /// Whoever has something forgotten hears once it is.
    RememberShadows(Vec<ShadowMemory>, Option<oneshot::Sender<Result<(), WriteError>>>),
    Read(Query, oneshot::Sender<Result<Page, WriteError>>),
    Finish,
}

/// The durable history. Clones share one thread.
#[derive(Debug, Clone)]
pub struct Journal {
    jobs: Sender<Job>,
    /// Jobs that the thread hasn't taken yet.
    waiting: Arc<AtomicUsize>,
    latest: watch::Receiver<u64>,
    metrics: Arc<JournalMetrics>,
}

impl Journal {
    /// Opens the journal at `path` and starts its thread; also returns what must hold, and the thread, which
    /// ends after [`Journal::finish`].
    ///
    /// # Errors
    /// When the file can't be used; it is left as it is.
    pub fn open(path: &Path, metrics: Arc<JournalMetrics>) -> Result<(Self, Kept, JoinHandle<()>), OpenError> {
        let unusable = |reason: String| OpenError::Unusable { path: path.to_owned(), reason };
        let database = Database::open(path)?;
        let corrupt = |error: rusqlite::Error| OpenError::Corrupt { path: path.to_owned(), reason: error.to_string() };
        let kept = database.kept().map_err(corrupt)?;
        let (latest_is, latest) = watch::channel(database.latest().map_err(corrupt)?);
        let (jobs, inbox) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let writer = Writer {
            database,
            waiting: Arc::clone(&waiting),
            backlog: VecDeque::new(),
            refused: None,
            latest: latest_is,
            metrics: Arc::clone(&metrics),
        };
        let thread = std::thread::Builder::new().name("tidegate-journal".to_owned());
        let thread = thread.spawn(move || writer.run(&inbox)).map_err(|error| unusable(error.to_string()))?;
        Ok((Self { jobs, waiting, latest, metrics }, kept, thread))
    }

    /// Writes an entry; once this returns, it is on the disk. Returns the event's id.
    ///
    /// # Errors
    /// When it is not written, and won't be.
    pub async fn write(&self, entry: Entry) -> Result<u64, WriteError> {
        let (done, heard) = oneshot::channel();
        self.hand_over(Job::Write(Box::new(entry), done))?;
        heard.await.unwrap_or_else(|_| Err(WriteError("its thread has ended".to_owned())))
    }

    /// Writes an entry when the disk lets it, in the order of calls; nobody waits.
    pub fn write_later(&self, entry: Entry) {
        // What must hold after a restart is never given up; there is no more of it than people and backends make.
        let must_hold = !entry.changes.is_empty();
        let job = Job::Later(Box::new(entry));
        let handed_over = if must_hold { self.send(job) } else { self.hand_over(job) };
        if handed_over.is_err() {
            self.metrics.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Remembers trials in place of all that were remembered, if the disk lets it: they can be had again.
    pub fn remember(&self, trials: Vec<TrialMemory>) {
        let _ = self.hand_over(Job::Remember(trials));
    }

    /// Remembers how far a sink has come, if the disk lets it: what it has heard since it hears again then.
    pub fn remember_cursor(&self, sink: String, cursor: u64) {
        let _ = self.hand_over(Job::Cursor(sink, Some(cursor)));
    }

    /// Forgets a sink.
    pub fn forget_cursor(&self, sink: String) {
        let _ = self.hand_over(Job::Cursor(sink, None));
    }

    /// Remembers comparisons in place of all that were remembered, likewise.
    pub fn remember_shadows(&self, shadows: Vec<ShadowMemory>) {
        let _ = self.hand_over(Job::RememberShadows(shadows, None));
    }

    /// The same, handed over at once; once what is returned is ready, it is on the disk.
    ///
    /// # Errors
    /// When it is not written, and won't be.
    pub fn write_shadows(&self, shadows: Vec<ShadowMemory>) -> impl Future<Output = Result<(), WriteError>> + use<> {
        let (done, heard) = oneshot::channel();
        let handed_over = self.hand_over(Job::RememberShadows(shadows, Some(done)));
        async move {
            handed_over?;
            heard.await.unwrap_or_else(|_| Err(WriteError("its thread has ended".to_owned())))
        }
    }

    /// Reads events.
    ///
    /// # Errors
    /// When the file can't be read.
    pub async fn read(&self, query: Query) -> Result<Page, WriteError> {
        let (done, heard) = oneshot::channel();
        self.hand_over(Job::Read(query, done))?;
        heard.await.unwrap_or_else(|_| Err(WriteError("its thread has ended".to_owned())))
    }

    /// The id of the latest event, and word of each new one.
    #[must_use]
    pub fn latest(&self) -> watch::Receiver<u64> {
        self.latest.clone()
    }

    /// Has the thread write what it can, and end.
    pub fn finish(&self) {
        // One that is gone has ended already.
        let _ = self.send(Job::Finish);
    }

    fn hand_over(&self, job: Job) -> Result<(), WriteError> {
        if self.waiting.load(Ordering::Relaxed) >= JOBS_MAX {
            return Err(WriteError("too much waits to be written".to_owned()));
        }
        self.send(job)
    }

    fn send(&self, job: Job) -> Result<(), WriteError> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.jobs.send(job).map_err(|_| WriteError("its thread has ended".to_owned()))
    }
}

struct Writer {
    database: Database,
    waiting: Arc<AtomicUsize>,
    /// Entries that were refused, oldest first.
    backlog: VecDeque<Box<Entry>>,
    /// When the disk last refused one.
    refused: Option<Instant>,
    latest: watch::Sender<u64>,
    metrics: Arc<JournalMetrics>,
}

impl Writer {
    fn run(mut self, inbox: &Receiver<Job>) {
        loop {
            let job = if self.backlog.is_empty() {
                inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                inbox.recv_timeout(RETRY_INTERVAL)
            };
            if job.is_ok() {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
            }
            match job {
                Ok(Job::Write(entry, done)) => {
                    // What happened before stands before it.
                    let written = self.catch_up().and_then(|()| self.write(&entry));
                    // A caller that has given up needs no answer.
                    let _ = done.send(written);
                }
                Ok(Job::Later(entry)) => {
                    self.keep(entry);
                    // A try may take a second, and nobody waits for this one.
                    if self.refused.is_none_or(|at| at.elapsed() >= RETRY_INTERVAL) {
                        let _ = self.catch_up();
                    }
                }
                Ok(Job::Remember(trials)) => {
                    if let Err(error) = self.database.remember(&trials) {
                        warn!(%error, "how far trials have come can't be written down");
                    }
                }
                Ok(Job::Cursor(sink, cursor)) => {
                    if let Err(error) = self.database.set_cursor(&sink, cursor) {
                        warn!(sink, %error, "how far a sink has come can't be written down");
                    }
                }
                Ok(Job::RememberShadows(shadows, done)) => {
                    let written = self.database.remember_shadows(&shadows).map_err(|error| {
                        warn!(%error, "what comparing shadows has come to can't be written down");
                        WriteError(error.to_string())
                    });
                    // A caller that has given up needs no answer.
                    let _ = done.map(|done| done.send(written));
                }
                Ok(Job::Read(query, done)) => {
                    let read = self.database.read(&query).map_err(|error| WriteError(error.to_string()));
                    let _ = done.send(read);
                }
                Err(RecvTimeoutError::Timeout) => {
                    let _ = self.catch_up();
                }
                Ok(Job::Finish) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if self.catch_up().is_err() {
            warn!(entries = self.backlog.len(), "the journal ends without its last entries: they could not be written");
        }
    }

    fn keep(&mut self, entry: Box<Entry>) {
        if self.backlog.len() >= BACKLOG_MAX {
            // What must hold after a restart is kept; what only tells something may go.
            let oldest = self.backlog.iter().position(|waiting| waiting.changes.is_empty()).unwrap_or(0);
            self.backlog.remove(oldest);
            self.metrics.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.backlog.push_back(entry);
        self.note_backlog();
    }

    /// Writes what waits, in order, up to the first that is refused.
    fn catch_up(&mut self) -> Result<(), WriteError> {
        let waited = self.backlog.len();
        while let Some(entry) = self.backlog.pop_front() {
            if let Err(error) = self.write(&entry) {
                self.backlog.push_front(entry);
                self.note_backlog();
                return Err(error);
            }
        }
        self.note_backlog();
        if waited > 1 {
            info!(entries = waited, "the journal has caught up");
        }
        Ok(())
    }

    fn write(&mut self, entry: &Entry) -> Result<u64, WriteError> {
        match self.database.write(entry) {
            Ok(id) => {
                self.refused = None;
                self.metrics.written.fetch_add(1, Ordering::Relaxed);
                self.latest.send_replace(id);
                Ok(id)
            }
            Err(error) => {
                self.refused = Some(Instant::now());
                if self.metrics.errors.fetch_add(1, Ordering::Relaxed) == 0 {
                    error!(%error, "the journal can't be written; trying again each second");
                }
                Err(WriteError(error.to_string()))
            }
        }
    }

    fn note_backlog(&self) {
        self.metrics.backlog.store(self.backlog.len() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Fact;

    fn entry() -> Entry {
        Entry::now("test", Fact::Stopped)
    }

    #[tokio::test]
    async fn what_is_written_can_be_read_and_is_announced() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, kept, thread) = Journal::open(&folder.path().join("journal.db"), Arc::default()).unwrap();
        assert_eq!(kept, Kept::default());
        let mut latest = journal.latest();
        journal.write_later(entry());
        assert_eq!(journal.write(entry()).await, Ok(2));
        latest.changed().await.unwrap();
        assert_eq!(*latest.borrow_and_update(), 2);
        let page = journal.read(Query { limit: 10, ..Query::default() }).await.unwrap();
        assert_eq!(page.events.len(), 2);
        journal.finish();
        thread.join().unwrap();
        assert!(journal.write(entry()).await.is_err());
    }

    #[tokio::test]
    async fn a_disk_that_refuses_is_tried_again_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db");
        let (journal, _, thread) = Journal::open(&path, Arc::default()).unwrap();
        // Somebody else's exclusive lock is as good as a full disk.
        let blocker = rusqlite::Connection::open(&path).unwrap();
        blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
        journal.write_later(Entry { by: "first".into(), ..entry() });
        let refused = journal.write(Entry { by: "refused".into(), ..entry() }).await;
        assert!(refused.unwrap_err().to_string().contains("journal can't be used"));
        assert_eq!(journal.metrics.backlog.load(Ordering::Relaxed), 1);
        blocker.execute_batch("ROLLBACK").unwrap();
        journal.write(Entry { by: "second".into(), ..entry() }).await.unwrap();
        let page = journal.read(Query { limit: 10, ..Query::default() }).await.unwrap();
        let by: Vec<_> = page.events.iter().map(|event| event.by.as_str()).collect();
        assert_eq!(by, ["first", "second"]);
        assert_eq!(journal.metrics.backlog.load(Ordering::Relaxed), 0);
        journal.finish();
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn what_must_hold_is_handed_over_however_much_waits() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, _, thread) = Journal::open(&folder.path().join("journal.db"), Arc::default()).unwrap();
        journal.waiting.fetch_add(JOBS_MAX, Ordering::Relaxed);
        journal.write_later(Entry { by: "told".into(), ..entry() });
        let ending = crate::journal::Lasting::EndWeights("shop".parse().unwrap());
        journal.write_later(Entry { by: "kept".into(), ..entry() }.with(ending));
        assert!(journal.write(entry()).await.is_err());
        journal.waiting.fetch_sub(JOBS_MAX, Ordering::Relaxed);
        let page = journal.read(Query { limit: 10, ..Query::default() }).await.unwrap();
        let by: Vec<_> = page.events.iter().map(|event| event.by.as_str()).collect();
        assert_eq!(by, ["kept"]);
        assert_eq!(journal.metrics.dropped.load(Ordering::Relaxed), 1);
        journal.finish();
        thread.join().unwrap();
    }

    #[test]
    fn a_backlog_keeps_what_must_hold() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("journal.db")).unwrap();
        let (latest, _) = watch::channel(0);
        let (backlog, refused) = (VecDeque::new(), None);
        let mut writer =
            Writer { database, waiting: Arc::default(), backlog, refused, latest, metrics: Arc::default() };
        let ending = entry().with(crate::journal::Lasting::EndWeights("shop".parse().unwrap()));
        writer.keep(Box::new(ending.clone()));
        (0..BACKLOG_MAX).for_each(|_| writer.keep(Box::new(entry())));
        assert_eq!(writer.backlog.len(), BACKLOG_MAX);
        assert_eq!(*writer.backlog[0], ending);
        assert_eq!(writer.metrics.dropped.load(Ordering::Relaxed), 1);
    }
}
