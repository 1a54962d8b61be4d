//! One thread of the data plane: its runtime, its view of the snapshot, its endpoints, its connections. Nothing
//! in here is shared with another thread but what is marked so.

mod background;
mod budget;
mod cookie;
mod lifeline;
mod view;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::{ArcSwap, Cache};
use http::HeaderValue;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use background::Background;
use budget::{Budgets, Terms};
pub use cookie::{ClientId, CookieKey};
pub use lifeline::{Lifeline, Registration, Signal};
pub use view::{BackendView, ServiceView, View};

use crate::guard::Reporter;
use crate::observe::{AccessLog, ProcessMetrics, WorkerCell};
use crate::passage::Pipes;
use crate::shadow::Queue;
use crate::state::{Service, Snapshot};
use crate::timers::Timers;

/// Bytes read at once from a connection that HTTP machinery isn't attached to.
const SCRATCH_BYTES: usize = 64 * 1024;

/// What everything on one worker shares.
#[derive(Debug)]
pub struct Worker {
    /// Names this worker's cells in shared tables.
    pub index: usize,
    pub timers: Rc<Timers>,
    pub process: Arc<ProcessMetrics>,
    pub cookie_key: Arc<CookieKey>,
    pub access_log: Option<AccessLog>,
    pub reporter: Reporter,
    /// Where answers go that are compared.
    pub pairs: Arc<Queue>,
    /// Copies of requests.
    pub background: Background,
    /// The worker ends once its last connection has.
    pub draining: Cell<bool>,
    cache: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    view: RefCell<Rc<View>>,
    /// For large answers.
    pub(crate) pipes: Rc<Pipes>,
    endpoints: view::Endpoints,
    budgets: Budgets,
    rng: RefCell<StdRng>,
    scratch: RefCell<Box<[u8]>>,
    lifelines: RefCell<Slab<Rc<Lifeline>>>,
    emptied: Notify,
    date: RefCell<(u64, HeaderValue)>,
}

impl Worker {
    #[must_use]
    pub fn new(
        index: usize,
        snapshot: Arc<ArcSwap<Snapshot>>,
        process: Arc<ProcessMetrics>,
        cookie_key: Arc<CookieKey>,
        access_log: Option<AccessLog>,
        reporter: Reporter,
        pairs: Arc<Queue>,
    ) -> Rc<Self> {
        let mut cache = Cache::new(snapshot);
        let endpoints = view::Endpoints::new(index);
        let pipes = Pipes::new(process.workers.len());
        let view = RefCell::new(Rc::new(View::new(Arc::clone(cache.load()))));
        Rc::new(Self {
            index,
            timers: Timers::new(),
            process,
            cookie_key,
            access_log,
            reporter,
            pairs,
            background: Background::default(),
            draining: Cell::new(false),
            cache: RefCell::new(cache),
            view,
            pipes,
            endpoints,
            budgets: Budgets::default(),
            rng: RefCell::new(StdRng::from_rng(&mut rand::rng())),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into()),
            lifelines: RefCell::default(),
            emptied: Notify::new(),
            date: RefCell::new((0, HeaderValue::from_static(""))),
        })
    }

    /// The current snapshot with this worker's side of it. One pointer comparison when nothing has changed.
    #[must_use]
    pub fn view(&self) -> Rc<View> {
        let mut cache = self.cache.borrow_mut();
        let current = cache.load();
        let mut view = self.view.borrow_mut();
        if !Arc::ptr_eq(current, &view.snapshot) {
            *view = Rc::new(View::new(Arc::clone(current)));
            self.budgets.retain(current.services.iter().map(|service| service.name()));
        }
        Rc::clone(&view)
    }

    /// This worker's side of a service.
    #[must_use]
    pub fn service<'a>(&self, view: &'a View, index: usize) -> &'a ServiceView {
        view.service(index, &self.endpoints)
    }

    /// Takes one from what the service may spend on retries, rescues and hedges; false when it is spent.
    #[must_use]
    pub fn spend(&self, service: &Service, now: Instant) -> bool {
        let terms = Terms::of(&service.config.attempts.budget, self.process.workers.len());
        let requests = service.backends.iter().map(|backend| backend.metrics.cell(self.index).requests()).sum();
        self.budgets.spend(service.name(), &terms, requests, now)
    }

    /// This worker's process-wide counters.
    #[must_use]
    pub fn cell(&self) -> &WorkerCell {
        &self.process.workers[self.index]
    }

    /// A draw uniform over all `u64`.
    #[must_use]
    pub fn draw(&self) -> u64 {
        self.rng.borrow_mut().next_u64()
    }

    /// Fills `bytes` with random ones, fit for ids that nobody should guess.
    pub fn fill(&self, bytes: &mut [u8]) {
        self.rng.borrow_mut().fill_bytes(bytes);
    }

    /// Lends the worker's read buffer, which nobody holds across an await.
    pub fn with_scratch<T>(&self, read: impl FnOnce(&mut [u8]) -> T) -> T {
        read(&mut self.scratch.borrow_mut())
    }

    /// Enters a connection in the list of those that are told of a drain.
    #[must_use]
    pub fn register(self: &Rc<Self>, lifeline: &Rc<Lifeline>) -> Registration {
        let key = self.lifelines.borrow_mut().insert(Rc::clone(lifeline));
        self.cell().connections_open.increase();
        Registration::new(Rc::clone(self), key)
    }

    fn forget(&self, key: usize) {
        self.lifelines.borrow_mut().remove(key);
        self.cell().connections_open.decrease();
        if self.lifelines.borrow().is_empty() {
            self.emptied.notify_one();
        }
    }

    /// Waits until no connection is open.
    pub async fn emptied(&self) {
        while self.connections() > 0 {
            self.emptied.notified().await;
        }
    }

    /// How many connections are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.lifelines.borrow().len()
    }

    /// Tells every connection that `which` holds for.
    pub fn signal(&self, signal: Signal, which: impl Fn(&Lifeline) -> bool) {
        // Waking only schedules a task, so nobody changes the list meanwhile.
        self.lifelines.borrow().iter().filter(|(_, l)| which(l)).for_each(|(_, l)| l.signal(signal));
    }

    /// The value of a `Date` header, formatted once a second.
    #[must_use]
    pub fn date(&self) -> HeaderValue {
        let second = self.timers.now_ms() / 1000 + 1;
        let mut date = self.date.borrow_mut();
        if date.0 != second {
            let text = httpdate::fmt_http_date(SystemTime::now());
            *date = (second, HeaderValue::try_from(text).expect("a date is plain ASCII"));
        }
        date.1.clone()
    }

    /// What has to be done every tick.
    pub fn tick(&self) {
        self.timers.sweep();
        self.endpoints.sweep(self.timers.now_ms());
        if !self.process.headroom.suffices() {
            self.background.give_up();
            self.endpoints.let_go_of_copies();
        }
        if !self.process.memory.suffices() {
            self.endpoints.let_go();
        }
        if let Some(log) = &self.access_log {
            log.flush();
        }
        // A worker without requests must not hold on to an old snapshot.
        drop(self.view());
    }
}
