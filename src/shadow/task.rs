//! The thread that compares: takes pairs as they come, at most half of the time, and tells what has become known.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::board::{Board, Mirror, Turn};
use super::queue::{Pairs, Queue, Taken};
use super::report::{Outcome, ShadowView, Verdict};
use crate::control::Control;
use crate::journal::Fact;
use crate::observe::ShadowMetrics;

/// Between two looks at what is known by now.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Work after which it rests as long: whatever bodies cost, half of a core is left. What comes meanwhile waits in the
/// queue, or is dropped and counted.
const WORK: Duration = Duration::from_millis(10);
/// Requests come first wherever a core has to be shared.
const NICENESS: i32 = 10;

/// What comparing has come to, for whoever wants to know or to begin anew. The lock is held for one pair's evidence, or
/// for one view.
#[derive(Debug, Clone, Default)]
pub struct Results(Arc<Mutex<Board>>);

impl Results {
    /// All comparisons of a service.
    #[must_use]
    pub fn of(&self, service: &str) -> Vec<ShadowView> {
        self.board().views(service)
    }

    /// Whether what runs behind a mirror is the same as stable; `None`: nobody compares it.
    #[must_use]
    pub fn verdict(&self, service: &str, backend: &str) -> Option<Verdict> {
        self.board().verdict(service, backend)
    }

    /// Begins anew with what is known of a service; answers how many comparisons that were.
    #[must_use]
    pub fn reset(&self, service: &str) -> usize {
        self.board().reset(service)
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.lock().expect("no holder of this lock panics")
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
    /// Starts it; also returns where workers put pairs, and where results are read.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(control: Arc<Control>, metrics: Arc<ShadowMetrics>) -> io::Result<(Self, Arc<Queue>, Results)> {
        let (queue, pairs) = Queue::new();
        let queue = Arc::new(queue);
        let (stopping, results) = (Arc::new(AtomicBool::new(false)), Results::default());
        let comparer = Comparer { control, metrics, pairs, results: results.clone(), followed: None };
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
            tracing::error!("the thread that compares shadows ended in a panic");
        }
    }
}

struct Comparer {
    control: Arc<Control>,
    metrics: Arc<ShadowMetrics>,
    pairs: Pairs,
    results: Results,
    /// Version of the snapshot whose mirrors are followed.
    followed: Option<u64>,
}

impl Comparer {
    fn run(mut self, stopping: &AtomicBool) {
        // Linux gives each thread a niceness of its own; elsewhere this does nothing worse than fail.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::setpriority_process(None, NICENESS);
        let (mut looked, mut worked) = (Instant::now(), Duration::ZERO);
        self.look();
        while !stopping.load(Ordering::Relaxed) {
            match self.pairs.take(LOOK_INTERVAL.saturating_sub(looked.elapsed())) {
                Taken::Stopped => return,
                Taken::Nothing => {}
                Taken::Pair(pair) => {
                    let began = Instant::now();
                    self.follow();
                    self.compare(&pair);
                    drop(pair);
                    worked += began.elapsed();
                }
            }
            if looked.elapsed() >= LOOK_INTERVAL {
                looked = Instant::now();
                self.look();
            }
            if worked >= WORK {
                std::thread::sleep(std::mem::take(&mut worked));
            }
        }
    }

    fn compare(&self, pair: &super::Pair) {
        // The lock isn't held while bodies are read.
        let mirror = self.results.board().mirror(pair);
        if let Some(mirror) = mirror {
            let seen = mirror.look(pair);
            self.results.board().observe(&mirror, pair, &seen);
        }
    }

    /// Goes on with the mirrors that are there now, if something has changed.
    fn follow(&mut self) {
        let snapshot = self.control.store().current();
        if self.followed.replace(snapshot.version) != Some(snapshot.version) {
            self.results.board().follow(mirrors(&snapshot));
        }
    }

    fn look(&mut self) {
        // From when on an answer is slow changes with no snapshot.
        self.followed = None;
        self.follow();
        let (turns, totals) = {
            let mut board = self.results.board();
            (board.look(), board.totals())
        };
        *self.metrics.mirrors.lock().expect("no holder of this lock panics") = totals;
        for turn in turns {
            self.tell(turn);
        }
    }

    fn tell(&self, turn: Turn) {
        let Turn { was, now } = turn;
        let (service, backend, revision) = (now.service.clone(), now.backend.clone(), now.revision.clone());
        let Verdict { outcome, reason, .. } = now.verdict.clone();
        match outcome {
            Outcome::Different => warn!(%service, %backend, %revision, %reason, "a shadow answers differently"),
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

/// All mirrors that compare.
fn mirrors(_snapshot: &crate::state::Snapshot) -> Vec<Mirror> {
    Vec::new()
}
