//! A worker's thread: its runtime, and what the control thread tells it.

use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, oneshot};

use super::accept;
use super::admission::Admission;
use crate::guard::Reporter;
use crate::observe::{AccessLog, ProcessMetrics};
use crate::shadow::Queue;
use crate::state::{ListenerKey, Snapshot};
use crate::timers::TICK;
use crate::worker::{CookieKey, Signal, Worker};

/// Commands that may wait for a worker; the control thread waits when there are more.
const COMMANDS_MAX: usize = 64;

/// What a worker is told.
#[derive(Debug)]
pub enum Command {
    Listen {
        key: ListenerKey,
        socket: TcpListener,
    },
    /// Close a removed listener's socket and drain its connections.
    Unlisten {
        key: ListenerKey,
        /// Dropped once the socket is closed.
        closed: oneshot::Sender<()>,
    },
    /// Close all sockets, finish all requests, then end the thread.
    Drain,
    /// Close connections that carry nothing lasting.
    CloseRequests,
    /// End the thread now.
    Stop,
}

/// What a worker needs to begin.
#[derive(Debug)]
pub struct WorkerThreadConfig {
    pub index: usize,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub process: Arc<ProcessMetrics>,
    pub cookie_key: Arc<CookieKey>,
    pub access_log: Option<AccessLog>,
    pub reporter: Reporter,
    pub pairs: Arc<Queue>,
    pub admission: Arc<Admission>,
}

/// A running worker.
#[derive(Debug)]
pub struct WorkerThread {
    commands: mpsc::Sender<Command>,
    ended: oneshot::Receiver<()>,
    thread: JoinHandle<()>,
}

impl WorkerThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system refuses a thread or what its runtime needs.
    pub fn start(config: WorkerThreadConfig) -> io::Result<Self> {
        let runtime = || Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let (end, ended) = oneshot::channel();
        let (report, started) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name(format!("tidegate-{}", config.index)).spawn(move || {
            let runtime = match runtime() {
                Ok(runtime) => runtime,
                Err(error) => return drop(report.send(Err(error))),
            };
            drop(report.send(Ok(())));
            runtime.block_on(run(config, inbox));
            // Tasks still alive go with the runtime; the control thread has decided that.
            drop(runtime);
            drop(end);
        })?;
        started.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended at once")))?;
        Ok(Self { commands, ended, thread })
    }

    /// Tells the worker something. A worker that has ended needs to be told nothing.
    pub async fn tell(&self, command: Command) {
        let _ = self.commands.send(command).await;
    }

    /// Has the worker close a removed listener's socket, and waits until it is closed: the address must be free for
    /// whoever is told that the listener is gone.
    pub async fn unlisten(&self, key: ListenerKey) {
        let (closed, heard) = oneshot::channel();
        self.tell(Command::Unlisten { key, closed }).await;
        // The sender is dropped, never used; with the worker, if that has ended.
        let _ = heard.await;
    }

    /// Waits until the thread has ended. Can be asked again afterwards.
    pub async fn ended(&mut self) {
        // A receiver that has heard its end panics when asked again.
        if !self.ended.is_terminated() {
            // The sender is dropped, never used.
            let _ = (&mut self.ended).await;
        }
    }

    /// Waits for the thread itself, after [`WorkerThread::ended`].
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("a worker ended in a panic");
        }
    }
}

/// A listening socket's accept loop, and how to stop it.
struct Accepting {
    stop: oneshot::Sender<()>,
    stopped: Rc<Notify>,
}

async fn run(config: WorkerThreadConfig, mut inbox: mpsc::Receiver<Command>) {
    let worker = Worker::new(
        config.index,
        config.snapshot,
        config.process,
        config.cookie_key,
        config.access_log,
        config.reporter,
        config.pairs,
    );
    tokio::task::spawn_local(tick(Rc::clone(&worker)));
    let timers = Rc::clone(&worker.timers);
    tokio::task::spawn_local(async move { timers.sweep_fine().await });
    let admission = config.admission;
    let mut accepting = HashMap::new();
    loop {
        let command = tokio::select! {
            command = inbox.recv() => command,
            () = worker.emptied(), if worker.draining.get() => None,
        };
        match command {
            Some(Command::Listen { key, socket }) => {
                if let Some(started) = listen(&worker, &admission, key, socket) {
                    accepting.insert(key, started);
                }
            }
            Some(Command::Unlisten { key, closed }) => {
                if let Some(removed) = accepting.remove(&key) {
                    stop(removed).await;
                }
                drop(closed);
            }
            Some(Command::Drain) => {
                for (_, removed) in accepting.drain() {
                    stop(removed).await;
                }
                worker.draining.set(true);
                worker.signal(Signal::Drain, |_| true);
            }
            Some(Command::CloseRequests) => worker.signal(Signal::Close, |lifeline| !lifeline.is_long()),
            Some(Command::Stop) | None => break,
        }
    }
    worker.tick();
}

fn listen(worker: &Rc<Worker>, admission: &Arc<Admission>, key: ListenerKey, socket: TcpListener) -> Option<Accepting> {
    let listener = match tokio::net::TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, address = %key.address, "a worker can't listen");
            return None;
        }
    };
    let (stop, told) = oneshot::channel();
    let stopped = Rc::new(Notify::new());
    tokio::task::spawn_local(accept::run(
        Rc::clone(worker),
        Arc::clone(admission),
        key,
        listener,
        told,
        Rc::clone(&stopped),
    ));
    Some(Accepting { stop, stopped })
}

async fn stop(accepting: Accepting) {
    // The loop ends only when told.
    let _ = accepting.stop.send(());
    accepting.stopped.notified().await;
}

/// Does what has to be done now and then, for as long as the worker lives.
async fn tick(worker: Rc<Worker>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        worker.tick();
    }
}
