//! The thread that compares: takes pairs as they come, at most half of the time, and tells what has become known.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{error, info};

use super::board::{Board, Mirror, Settings, Turn};
use super::memory::Memory;
use super::pair::Pair;
use super::queue::{Pairs, Queue, Taken};
use super::report::{Outcome, ShadowView, Subject, Verdict};
use crate::control::Control;
use crate::journal::{Fact, ShadowMemory, WriteError};
use crate::observe::ShadowMetrics;
use crate::state::{self, Service, Snapshot};

/// Between two looks at what is known by now.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Between two times that what is known is written down.
const MEMORY_INTERVAL: Duration = Duration::from_secs(10);
/// Work after which it rests as long: whatever bodies cost, half of a core is left. What comes meanwhile waits in the
/// queue, or is dropped and counted.
const WORK: Duration = Duration::from_millis(10);
/// Requests come first wherever a core has to be shared.
const NICENESS: i32 = 10;

/// What comparing has come to, for whoever wants to know or to begin anew. The lock is held for one pair's evidence,
/// for one view, or while what is known is handed over to be written down.
#[derive(Debug, Clone)]
pub struct Results {
    control: Arc<Control>,
    followed: Arc<Mutex<Followed>>,
}

/// The comparisons, and the version of the snapshot whose mirrors they are of.
#[derive(Debug, Default)]
struct Followed {
    board: Board,
    version: Option<u64>,
}

impl Results {
    fn new(control: Arc<Control>, memories: Vec<ShadowMemory>) -> Self {
        // One that can't be read any more is of no use; comparing begins anew.
        let memories = memories.into_iter().filter_map(|kept| serde_json::from_value::<Memory>(kept.memory).ok());
        let followed = Followed { board: Board::remembering(memories.collect()), version: None };
        Self { control, followed: Arc::new(Mutex::new(followed)) }
    }

    /// All comparisons of a service.
    #[must_use]
    pub fn of(&self, service: &str) -> Vec<ShadowView> {
        self.followed().board.views(service)
    }

    /// Whether what runs behind a mirror is the same as stable; `None`: nobody compares it.
    #[must_use]
    pub fn verdict(&self, service: &str, backend: &str) -> Option<Verdict> {
        self.followed().board.verdict(service, backend)
    }

    /// Begins anew with what is known of a service; answers how many comparisons that were. What else is returned is
    /// ready once a crash can't bring back any more what somebody has had forgotten.
    pub fn reset(&self, service: &str) -> (usize, impl Future<Output = Result<(), WriteError>> + use<>) {
        let mut followed = self.followed();
        let comparisons = followed.board.reset(service);
        let memories = followed.board.memories().unwrap_or_default();
        // Without a journal nothing was kept that could come back.
        let written = self.control.journal().ok().map(|journal| journal.write_shadows(kept(memories)));
        (comparisons, async move {
            match written {
                Some(written) => written.await,
                None => Ok(()),
            }
        })
    }

    /// Begins anew with what is known of one mirror: what runs there is tried again.
    pub fn forget(&self, service: &str, backend: &str) {
        let mut followed = self.followed();
        followed.board.forget(service, backend);
        self.remember(&mut followed.board);
    }

    /// Has what is known written down, if it has changed since. Under the lock: what was known before something was
    /// forgotten must not be handed over after it.
    fn remember(&self, board: &mut Board) {
        let Some(memories) = board.memories() else { return };
        if let Ok(journal) = self.control.journal() {
            journal.remember_shadows(kept(memories));
        }
    }

    /// Has all that is known by now written down.
    fn remember_all(&self) {
        self.remember(&mut self.followed().board);
    }

    /// As the mirrors are that requests see now.
    fn followed(&self) -> MutexGuard<'_, Followed> {
        let snapshot = self.control.store().current();
        let mut followed = self.followed.lock().expect("no holder of this lock panics");
        // Somebody may have followed a later one already.
        if followed.version.is_none_or(|version| version < snapshot.version) {
            followed.version = Some(snapshot.version);
            followed.board.follow(mirrors(&snapshot), snapshot.since);
        }
        followed
    }

    /// From when on an answer is slow changes with no snapshot.
    fn follow_anew(&self) -> MutexGuard<'_, Followed> {
        self.followed.lock().expect("no holder of this lock panics").version = None;
        self.followed()
    }
}

/// The running thread.
#[derive(Debug)]
pub struct ShadowThread {
    queue: Arc<Queue>,
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl ShadowThread {
    /// Starts it, with what is remembered of before; also returns where workers put pairs, and where results are read.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(
        control: Arc<Control>,
        metrics: Arc<ShadowMetrics>,
        memories: Vec<ShadowMemory>,
    ) -> io::Result<(Self, Arc<Queue>, Results)> {
        let (queue, pairs) = Queue::new();
        let queue = Arc::new(queue);
        let (stopping, results) = (Arc::new(AtomicBool::new(false)), Results::new(Arc::clone(&control), memories));
        let comparer = Comparer { control, metrics, pairs, results: results.clone() };
        let stops = Arc::clone(&stopping);
        let thread =
            std::thread::Builder::new().name("tidegate-shadow".to_owned()).spawn(move || comparer.run(&stops))?;
        Ok((Self { queue: Arc::clone(&queue), stopping, thread }, queue, results))
    }

    /// Ends it; what waits is let go.
    pub fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.queue.stop();
        if self.thread.join().is_err() {
            error!("the thread that compares shadows ended in a panic");
        }
    }
}

struct Comparer {
    control: Arc<Control>,
    metrics: Arc<ShadowMetrics>,
    pairs: Pairs,
    results: Results,
}

impl Comparer {
    fn run(self, stopping: &AtomicBool) {
        // Linux gives each thread a niceness of its own; elsewhere this does nothing worse than fail.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::setpriority_process(None, NICENESS);
        let (mut looked, mut worked) = (Instant::now(), Duration::ZERO);
        self.look();
        let mut remembered = Instant::now();
        while !stopping.load(Ordering::Relaxed) {
            match self.pairs.take(LOOK_INTERVAL.saturating_sub(looked.elapsed())) {
                Taken::Stopped => break,
                Taken::Nothing => {}
                Taken::Pair(pair) => {
                    let began = Instant::now();
                    self.compare(&pair);
                    drop(pair);
                    worked += began.elapsed();
                }
            }
            if looked.elapsed() >= LOOK_INTERVAL {
                looked = Instant::now();
                let has_turned = self.look();
                if has_turned || remembered.elapsed() >= MEMORY_INTERVAL {
                    remembered = Instant::now();
                    self.results.remember_all();
                }
            }
            if worked >= WORK {
                std::thread::sleep(std::mem::take(&mut worked));
            }
        }
        self.results.remember_all();
    }

    fn compare(&self, pair: &Pair) {
        // The lock isn't held while bodies are read.
        let mirror = self.results.followed().board.mirror(pair);
        if let Some(mirror) = mirror {
            let seen = mirror.look(pair);
            self.results.followed().board.observe(&mirror, pair, &seen);
        }
    }

    /// Whether a verdict has changed.
    fn look(&self) -> bool {
        let (turns, totals) = {
            let board = &mut self.results.follow_anew().board;
            (board.look(), board.totals())
        };
        *self.metrics.mirrors.lock().expect("no holder of this lock panics") = totals;
        let has_turned = !turns.is_empty();
        for turn in turns {
            self.tell(turn);
        }
        has_turned
    }

    fn tell(&self, turn: Turn) {
        let Turn { was, now } = turn;
        let (service, backend, revision) = (now.service.clone(), now.backend.clone(), now.revision.clone());
        let Verdict { outcome, reason, .. } = now.verdict.clone();
        match outcome {
            Outcome::Different => info!(%service, %backend, %revision, %reason, "a shadow answers differently"),
            Outcome::Same => info!(%service, %backend, %revision, %reason, "a shadow answers the same"),
            Outcome::Inconclusive => {}
        }
        let evidence = serde_json::to_value(now.shortened()).unwrap_or_default();
        self.control.note(Fact::ShadowVerdict {
            service,
            backend,
            revision,
            verdict: outcome.name().to_owned(),
            was: was.name().to_owned(),
            reason,
            evidence,
        });
    }
}

/// As they are written down.
fn kept(memories: Vec<Memory>) -> Vec<ShadowMemory> {
    let kept = |memory: Memory| {
        let (service, backend) = (memory.subject.service.parse().ok()?, memory.subject.backend.parse().ok()?);
        Some(ShadowMemory { service, backend, memory: serde_json::to_value(memory).ok()? })
    };
    memories.into_iter().filter_map(kept).collect()
}

/// All mirrors that compare.
fn mirrors(snapshot: &Snapshot) -> Vec<Mirror> {
    let of = |service: &Service| -> Vec<Mirror> {
        let stable = service.stable();
        let followed = |mirror: &state::Mirror| {
            let compare = mirror.config.compare.as_ref()?;
            let backend = &service.backends[mirror.config.backend];
            Some(Mirror {
                subject: Subject {
                    service: service.name().to_string(),
                    backend: backend.name.to_string(),
                    revision: backend.revision.to_string(),
                    stable: stable.name.to_string(),
                    stable_revision: stable.revision.to_string(),
                },
                settings: Settings::of(compare),
                slow_after: service.watch.slow_after(),
            })
        };
        service.mirrors.iter().flatten().filter_map(followed).collect()
    };
    snapshot.services.iter().flat_map(|service| of(service)).collect()
}
