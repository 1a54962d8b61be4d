//! The composition root: the one file that names every part. Turns a configuration into a running proxy, and
//! carries out what signals and the admin API ask of the whole.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::admin::{self, Admin};
use crate::config::{self, Config, Loaded, Problems, ShutdownConfig};
use crate::control::Control;
use crate::dora::Gauges;
use crate::guard::{Guard, Questions, Reporter};
use crate::health::HealthThread;
use crate::journal::{self, Fact, Journal};
use crate::listener::{Admission, BindError, Command, WorkerThread, WorkerThreadConfig, bind};
use crate::model::Overload;
use crate::notify::Notifier;
use crate::observe::{AccessLogWriter, ProcessMetrics, ReloadOutcome, Usage, default_limit, open_files, resident};
use crate::rollout::Conductor;
use crate::shadow::{Queue, ShadowThread};
use crate::state::{History, ListenerKey, LiveChanges, Refused, Store};
use crate::tls::ServerTls;
use crate::upstream::{Resolver, host_names, resolve_once};
use crate::worker::CookieKey;

/// How long a start or a reload waits for host names; those that take longer get requests once they answer.
const RESOLVE_WAIT: Duration = Duration::from_secs(5);
/// How often old snapshots are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Verdicts of the guard that wait for rollouts to hear of them.
const VERDICTS_MAX: usize = 256;

/// How often it is looked at how much memory is in use.
const MEMORY_INTERVAL: Duration = Duration::from_millis(100);

/// How often the allocator is prompted while memory isn't short: what it gives back has been free for as long.
const PROMPT_INTERVAL: Duration = Duration::from_secs(1);

/// Large enough to be allocated by itself. Never written to, so it takes no memory.
const LARGE_PIECE_BYTES: usize = 4 << 20;

/// Why the proxy didn't start. Says what happened, where, and a hint.
#[derive(Debug)]
pub enum StartError {
    StateDir { path: String, error: io::Error },
    Locked { path: String, owner: String },
    Bind(BindError),
    AccessLog(io::Error),
    Refused(Refused),
    Tls(String),
    Worker(io::Error),
    Health(io::Error),
    Shadow(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StateDir { path, error } => write!(
                f,
                "the state directory {path} can't be used: {error}\n  hint: it must be a folder that tidegate can write; state_dir names it"
            ),
            Self::Locked { path, owner } => write!(
                f,
                "the state directory {path} belongs to another running tidegate{owner}\n  hint: stop that one, or give this one a state_dir of its own"
            ),
            Self::Bind(error) => error.fmt(f),
            Self::AccessLog(error) => {
                write!(f, "the access log can't be opened: {error}\n  hint: access_log names the file")
            }
            Self::Refused(refused) => refused.fmt(f),
            Self::Tls(reason) => write!(f, "TLS can't be set up: {reason}"),
            Self::Worker(error) => write!(f, "a worker thread can't be started: {error}"),
            Self::Shadow(error) => write!(f, "the thread that compares shadows can't be started: {error}"),
            Self::Health(error) => write!(f, "the thread that watches endpoints can't be started: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// A running proxy.
#[derive(Debug)]
pub struct App {
    store: Arc<Store>,
    control: Arc<Control>,
    journal: Option<JoinHandle<()>>,
    health: Option<HealthThread>,
    shadow: Option<ShadowThread>,
    process: Arc<ProcessMetrics>,
    ready: watch::Sender<bool>,
    workers: Vec<WorkerThread>,
    listening: BTreeMap<ListenerKey, SocketAddr>,
    admin: Option<SocketAddr>,
    access_log: Option<AccessLogWriter>,
    guard: Questions,
    reloaded: Arc<Notify>,
    /// What the process was started with; some of it can't be changed later.
    started_with: Arc<Config>,
    /// Held as long as the proxy runs.
    _lock: File,
}

impl App {
    /// Starts everything; when this returns, connections are being accepted. `workers` outranks the file.
    ///
    /// # Errors
    /// When something it needs can't be had. Nothing is left running then.
    pub async fn start(config: Config, workers: Option<NonZeroUsize>) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let lock = lock(&config.state_dir)?;
        let files_limit = raise_descriptor_limit();
        let admission = Arc::new(Admission::new(files_limit));
        let workers = worker_count(workers.or(config.workers));
        let process = Arc::new(ProcessMetrics::new(workers));
        let resolved = resolve_once(host_names(&config), RESOLVE_WAIT).await;
        let state_error = |error| StartError::StateDir { path: config.state_dir.display().to_string(), error };
        let cookie_key = Arc::new(CookieKey::load(&config.state_dir).map_err(state_error)?);
        let access_log =
            AccessLogWriter::start(&config.access_log, Arc::clone(&process)).map_err(StartError::AccessLog)?;
        let server_tls = ServerTls::new().map_err(|e| StartError::Tls(e.to_string()))?;
        let (journal, history, kept, journal_thread) = open_journal(&config.state_dir, &process);
        let store = Store::new(&config, resolved.clone(), workers, server_tls, history);
        let (store, ended) = store.map_err(StartError::Refused)?;
        let store = Arc::new(store);
        let control = Arc::new(Control::new(Arc::clone(&store), journal, kept.guard));
        let admin_socket = match &config.admin {
            Some(admin) => Some(bind(admin.address, 1).map_err(StartError::Bind)?),
            None => None,
        };
        control.take_up_rolls(kept.rolls);
        let bound = bind_listeners(&config, &BTreeMap::new(), workers).map_err(StartError::Bind)?;
        let health = HealthThread::start(Arc::clone(&control)).map_err(StartError::Health)?;
        let (shadow, pairs, shadows) =
            ShadowThread::start(Arc::clone(&control), Arc::clone(&process.shadow), kept.shadows)
                .map_err(StartError::Shadow)?;
        let (reporter, reports) = Reporter::new(Arc::clone(&process.guard));
        let threads = start_workers(&store, &process, &cookie_key, access_log.as_ref(), &reporter, &pairs, &admission)?;
        let (convicted, verdicts) = tokio::sync::mpsc::channel(VERDICTS_MAX);
        let metrics = Arc::clone(&process.guard);
        let (guard, questions) =
            Guard::new(Arc::clone(&control), metrics, reports, kept.trials, kept.past_drains, convicted);
        let (conductor, rollouts) = Conductor::new(
            Arc::clone(&control),
            questions.clone(),
            shadows.clone(),
            verdicts,
            Arc::clone(&process.rollout),
            kept.rollouts,
        );
        let (ready, is_ready) = watch::channel(false);
        let mut app = Self {
            store: Arc::clone(&store),
            control: Arc::clone(&control),
            journal: journal_thread,
            health: Some(health),
            shadow: Some(shadow),
            process: Arc::clone(&process),
            ready,
            workers: threads,
            listening: BTreeMap::new(),
            admin: admin_socket.as_ref().map(|bound| bound.address),
            access_log,
            guard: questions.clone(),
            reloaded: Arc::default(),
            started_with: Arc::clone(&config),
            _lock: lock,
        };
        app.listen(bound).await;
        control.note(Fact::Started {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config: config.path.display().to_string(),
            pid: std::process::id(),
        });
        control.note_ended(&ended);
        let resolver = Resolver::new(Arc::clone(&store), Arc::clone(&process), resolved);
        tokio::spawn(resolver.run(Arc::clone(&app.reloaded)));
        tokio::spawn(sweep(Arc::clone(&store)));
        tokio::spawn(guard.run());
        tokio::spawn(conductor.run());
        if let Ok(journal) = control.journal() {
            let metrics = Arc::clone(&process.notify);
            tokio::spawn(Notifier::new(Arc::clone(&control), journal.clone(), metrics, kept.cursors).run());
            tokio::spawn(Gauges::new(journal.clone(), Arc::clone(&process.dora)).run());
        }
        tokio::spawn(watch_memory(Arc::clone(&store), Arc::clone(&process), files_limit));
        if let (Some(bound), Some(settings)) = (admin_socket, &config.admin) {
            let admin = Admin::new(control, process, questions, shadows, rollouts, is_ready, settings.token.clone());
            tokio::spawn(admin::serve(bound.sockets, admin));
        }
        app.ready.send_replace(true);
        Ok(app)
    }

    /// What requests see, and how to change it.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Where clients connect, in the order of configured addresses.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listening.values().copied().collect()
    }

    /// Where the admin API listens.
    #[must_use]
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Reads the configuration file, its certificates and its CAs again, for [`App::reload`]. Nothing has changed if this is
    /// given up.
    pub fn read_again(&self) -> impl Future<Output = Result<Loaded, Problems>> + use<> {
        config::load_again(self.store.config())
    }

    /// Puts in force what was read again: all of it, or nothing.
    pub async fn reload(&mut self, read: Result<Loaded, Problems>) -> ReloadOutcome {
        let outcome = match read {
            Err(problems) => ReloadOutcome::Refused { problems: problems.to_string() },
            Ok(loaded) => {
                let mut warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
                warnings.extend(needs_restart(&self.started_with, &loaded.config));
                match self.apply(Arc::new(loaded.config)).await {
                    Ok(version) => ReloadOutcome::Applied { version, warnings },
                    Err(problems) => ReloadOutcome::Refused { problems },
                }
            }
        };
        match &outcome {
            ReloadOutcome::Applied { version, warnings } => {
                for text in warnings {
                    warn!("{text}");
                }
                info!(version, "configuration reloaded");
                self.control.note(Fact::Reloaded { warnings: warnings.clone() });
            }
            ReloadOutcome::Refused { problems } => {
                error!("configuration not reloaded, the old one stays in force:\n{problems}");
                self.control.note(Fact::ReloadRefused { problems: problems.clone() });
            }
        }
        if let Some(log) = &self.access_log {
            log.reopen();
        }
        self.process.reloaded(outcome.clone());
        self.reloaded.notify_one();
        outcome
    }

    /// Opens what is new before it changes anything, so that a taken address refuses the whole. Names that are new
    /// are looked up before, too: a backend must not lose its requests because it got a name.
    async fn apply(&mut self, config: Arc<Config>) -> Result<u64, String> {
        let added = bind_listeners(&config, &self.listening, self.workers.len()).map_err(|e| e.to_string())?;
        let old_names = host_names(&self.store.config());
        let new_names = host_names(&config).into_iter().filter(|name| !old_names.contains(name)).collect();
        let resolved = resolve_once(new_names, RESOLVE_WAIT).await;
        let version = self.control.reload(Arc::clone(&config), resolved).await.map_err(|e| e.to_string())?;
        self.listen(added).await;
        let kept: Vec<ListenerKey> = ListenerKey::all(&config).map(|(key, _)| key).collect();
        let removed: Vec<ListenerKey> = self.listening.keys().filter(|key| !kept.contains(key)).copied().collect();
        for key in removed {
            for worker in &self.workers {
                worker.unlisten(key).await;
            }
            if let Some(address) = self.listening.remove(&key) {
                info!(%address, "no longer listening");
            }
        }
        Ok(version)
    }

    async fn listen(&mut self, bound: Vec<(ListenerKey, crate::listener::Bound)>) {
        for (key, bound) in bound {
            for (worker, socket) in self.workers.iter().zip(bound.sockets) {
                worker.tell(Command::Listen { key, socket }).await;
            }
            let tls = self.store.current().listener(key).is_some_and(|listener| listener.tls.is_some());
            info!(address = %bound.address, tls, "listening");
            self.listening.insert(key, bound.address);
        }
    }

    /// Stops: no new connections, requests and streams finished within their deadlines, then the end. `hurry`
    /// cuts all of it short.
    pub async fn stop(mut self, hurry: impl Future<Output = ()>) {
        let deadlines = self.store.config().shutdown;
        self.ready.send_replace(false);
        let hurried = tokio::select! {
            () = self.drain(deadlines) => false,
            () = hurry => true,
        };
        for worker in &self.workers {
            worker.tell(Command::Stop).await;
        }
        if hurried {
            warn!("stopping at once; what was under way is cut off");
        }
        for mut worker in self.workers.drain(..) {
            worker.ended().await;
            worker.join();
        }
        if let Some(health) = self.health.take() {
            health.stop();
        }
        if let Some(shadow) = self.shadow.take() {
            shadow.stop();
        }
        if let Some(log) = self.access_log.take() {
            log.finish();
        }
        if let Some(journal) = self.journal.take() {
            self.guard.remember().await;
            self.control.note(Fact::Stopped);
            self.control.finish();
            if journal.join().is_err() {
                error!("the journal ended in a panic");
            }
        }
    }

    async fn drain(&mut self, deadlines: ShutdownConfig) {
        if !deadlines.delay.is_zero() {
            info!(delay = ?deadlines.delay, "not ready any more; still accepting");
            tokio::time::sleep(deadlines.delay).await;
        }
        self.control.release_all().await;
        info!(connections = self.process.totals().connections_open, "draining");
        for worker in &self.workers {
            worker.tell(Command::Drain).await;
        }
        let workers = &mut self.workers;
        if tokio::time::timeout(deadlines.requests, all_ended(workers)).await.is_ok() {
            return;
        }
        warn!(
            connections = self.process.totals().connections_open,
            deadline = ?deadlines.requests,
            "cutting off requests that outlast their deadline"
        );
        for worker in workers.iter() {
            worker.tell(Command::CloseRequests).await;
        }
        let rest = deadlines.streams.saturating_sub(deadlines.requests);
        if tokio::time::timeout(rest, all_ended(workers)).await.is_err() {
            warn!(
                connections = self.process.totals().connections_open,
                "closing connections that outlast their deadline"
            );
        }
    }
}

/// The history; or why there is none, which is no reason not to serve.
fn open_journal(
    state_dir: &Path,
    process: &ProcessMetrics,
) -> (Result<Journal, String>, History, journal::Kept, Option<JoinHandle<()>>) {
    match Journal::open(&state_dir.join(journal::FILE_NAME), Arc::clone(&process.journal)) {
        Ok((journal, kept, thread)) => {
            process.journal.usable.store(true, Ordering::Relaxed);
            let live = LiveChanges {
                weights: kept.weights.clone(),
                drains: kept.drains.clone(),
                mirrors: kept.mirrors.clone(),
                deployments: kept.deployments.clone(),
            };
            (Ok(journal), History::Known(live), kept, Some(thread))
        }
        Err(problem) => {
            error!(
                "what was changed live before can't be known, so stable gets everything, and nothing can be moved away from it until this is mended:\n{problem}"
            );
            (Err(problem.to_string()), History::Unknown, journal::Kept::default(), None)
        }
    }
}

async fn all_ended(workers: &mut [WorkerThread]) {
    for worker in workers {
        worker.ended().await;
    }
}

/// Sockets for the listeners of `config` that aren't listened on yet.
fn bind_listeners(
    config: &Config,
    listening: &BTreeMap<ListenerKey, SocketAddr>,
    workers: usize,
) -> Result<Vec<(ListenerKey, crate::listener::Bound)>, BindError> {
    let added = ListenerKey::all(config).filter(|(key, _)| !listening.contains_key(key));
    added.map(|(key, listener)| Ok((key, bind(listener.address, workers)?))).collect()
}

fn start_workers(
    store: &Store,
    process: &Arc<ProcessMetrics>,
    cookie_key: &Arc<CookieKey>,
    access_log: Option<&AccessLogWriter>,
    reporter: &Reporter,
    pairs: &Arc<Queue>,
    admission: &Arc<Admission>,
) -> Result<Vec<WorkerThread>, StartError> {
    (0..process.workers.len())
        .map(|index| {
            WorkerThread::start(WorkerThreadConfig {
                index,
                snapshot: store.shared(),
                process: Arc::clone(process),
                cookie_key: Arc::clone(cookie_key),
                access_log: access_log.map(AccessLogWriter::worker),
                reporter: reporter.clone(),
                pairs: Arc::clone(pairs),
                admission: Arc::clone(admission),
            })
        })
        .collect::<io::Result<_>>()
        .map_err(StartError::Worker)
}

async fn sweep(store: Arc<Store>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        store.sweep();
    }
}

/// The allocator gives back to the system, a second later, what has been freed; but it looks whether it should only when
/// somebody frees a large piece, which after a rush of requests or connections may be nobody.
fn prompt_allocator() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGE_PIECE_BYTES)));
}

/// And descriptors: both are what copies are given up for.
async fn watch_memory(store: Arc<Store>, process: Arc<ProcessMetrics>, files_limit: u64) {
    let default = default_limit();
    let mut interval = tokio::time::interval(MEMORY_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut prompted = Instant::now();
    loop {
        let now = interval.tick().await;
        let limit = store.current().limits.memory.unwrap_or(default);
        // Without a free descriptor nobody can tell; what was seen last holds on.
        let used = resident().unwrap_or_else(|| process.memory.used());
        if used > limit / 2 || now.duration_since(prompted) >= PROMPT_INTERVAL {
            prompted = now;
            prompt_allocator();
        }
        match process.memory.observe(used, limit) {
            (before, after) if before == after => {}
            (_, Overload::None) => info!(used, limit, "memory suffices again"),
            (_, Overload::Requests) => warn!(used, limit, "memory is short; new requests are refused"),
            (_, Overload::Connections) => {
                warn!(used, limit, "memory is short; new requests and connections are refused");
            }
        }
        let files = Usage { used: open_files(), limit: files_limit };
        match process.headroom.observe(Usage { used, limit }, files) {
            None => {}
            Some(true) => info!(used, limit, files = files.used, files_limit, "requests are mirrored again"),
            Some(false) => {
                info!(
                    used,
                    limit,
                    files = files.used,
                    files_limit,
                    "memory or descriptors get short; copies are given up"
                );
            }
        }
    }
}

fn worker_count(wanted: Option<NonZeroUsize>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    wanted.map_or_else(cores, NonZeroUsize::get)
}

/// Settings of a new file that a running process can't take up.
fn needs_restart(running: &Config, new: &Config) -> Vec<String> {
    let admin = |config: &Config| config.admin.as_ref().map(|admin| (admin.address, admin.token.clone()));
    let changed = [
        ("state_dir", running.state_dir != new.state_dir),
        ("workers", running.workers != new.workers),
        ("admin", admin(running) != admin(new)),
        ("access_log", running.access_log != new.access_log),
        ("log", running.log != new.log),
    ];
    let changed = changed.iter().filter(|(_, changed)| *changed);
    changed.map(|(key, _)| format!("a change of {key} takes effect at the next start")).collect()
}

/// Makes the state directory this process's own, until the file is closed.
fn lock(state_dir: &Path) -> Result<File, StartError> {
    let path = state_dir.display().to_string();
    let state_error = |error| StartError::StateDir { path: path.clone(), error };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(state_error)?;
    let lock_path = state_dir.join("lock");
    let mut file = File::options().create(true).truncate(false).read(true).write(true).open(&lock_path);
    let file = file.as_mut().map_err(|e| state_error(io::Error::new(e.kind(), e.to_string())))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let owner = fs::read_to_string(&lock_path).unwrap_or_default();
            let owner = owner.trim().parse::<u32>().map_or(String::new(), |pid| format!(" (process {pid})"));
            return Err(StartError::Locked { path, owner });
        }
        Err(fs::TryLockError::Error(error)) => return Err(state_error(error)),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(state_error)?;
    file.try_clone().map_err(state_error)
}

/// Lets the process open as many sockets as the system allows it: the soft limit is 1024 nearly everywhere.
/// Returns how many it may open.
fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!(%error, "the limit of open files can't be raised; `ulimit -n` shows it");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
