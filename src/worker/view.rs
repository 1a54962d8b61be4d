//! A snapshot with one worker's side of it, made service by service when a request first needs one, so that a
//! snapshot of ten thousand services costs a worker nothing at the moment it appears.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::RandomState;
use http::HeaderValue;

use crate::background::Background;
use crate::model::{HeaderChanges, Via};
use crate::state::{Service, Snapshot, mark};
use crate::upstream::{Endpoint, LocalEndpoint, Restart};

/// What a request holds from its start to its end.
#[derive(Debug)]
pub struct View {
    pub snapshot: Arc<Snapshot>,
    /// This worker's own, as what `ServiceView` has is.
    pub via: Option<Via>,
    services: Box<[OnceCell<ServiceView>]>,
}

/// One service, as this worker sees it.
#[derive(Debug)]
pub struct ServiceView {
    pub service: Arc<Service>,
    /// In the order of the service's backends.
    pub backends: Box<[BackendView]>,
    /// Names and values that no other worker counts the references of.
    pub request_headers: Option<HeaderChanges>,
    pub response_headers: Option<HeaderChanges>,
    /// The value of `Strict-Transport-Security`, this worker's copy: sharing one would share its counter.
    pub hsts: Option<HeaderValue>,
    /// What copies for each backend carry, if there are mirrors.
    pub marks: Box<[HeaderValue]>,
}

/// One backend's endpoints, as this worker sees them.
#[derive(Debug)]
pub struct BackendView {
    pub endpoints: Box<[Rc<LocalEndpoint>]>,
    /// Requests that wait for the endpoints to listen again.
    pub restart: Rc<Restart>,
    /// The same endpoints for copies, if the service has mirrors: with connections of their own, and with load and
    /// latency that say nothing about clients' requests.
    pub copies: Box<[Rc<LocalEndpoint>]>,
}

impl View {
    pub(super) fn new(snapshot: Arc<Snapshot>) -> Self {
        let services = snapshot.services.iter().map(|_| OnceCell::new()).collect();
        let via = snapshot.forwarding.via.as_deref().map(Via::new);
        Self { snapshot, via, services }
    }

    pub(super) fn service(&self, index: usize, endpoints: &Endpoints) -> &ServiceView {
        self.services[index].get_or_init(|| {
            self.snapshot.used.mark(index);
            let service = Arc::clone(&self.snapshot.services[index]);
            let mirrored = || service.backends.iter().filter(|_| service.mirrors.is_some());
            let marks = mirrored().map(|b| mark(service.name(), &b.name));
            let marks = marks.filter_map(|mark| HeaderValue::try_from(mark).ok()).collect();
            let backends = service.backends.iter();
            let backends = backends
                .map(|b| BackendView {
                    endpoints: b.endpoints.iter().map(|e| endpoints.local(e)).collect(),
                    restart: Rc::default(),
                    copies: match service.mirrors {
                        Some(_) => b.endpoints.iter().map(|e| endpoints.for_copies(e)).collect(),
                        None => Box::default(),
                    },
                })
                .collect();
            let request_headers = service.config.request_headers.as_ref().map(HeaderChanges::unshared);
            let response_headers = service.config.response_headers.as_ref().map(HeaderChanges::unshared);
            let hsts = service.config.hsts.as_ref();
            let hsts = hsts.and_then(|value| HeaderValue::from_bytes(value.as_bytes()).ok());
            ServiceView { service, backends, request_headers, response_headers, hsts, marks }
        })
    }
}

/// This worker's side of every endpoint it has met, by id. One that no view or request uses and that has no
/// connections is forgotten.
#[derive(Debug)]
pub(super) struct Endpoints {
    /// The worker's index.
    worker: usize,
    /// Where connections for copies take turns.
    background: Rc<Background>,
    known: RefCell<Known>,
    for_copies: RefCell<Known>,
}

type Known = HashMap<u64, Rc<LocalEndpoint>, RandomState>;

impl Endpoints {
    pub(super) fn new(worker: usize, background: Rc<Background>) -> Self {
        Self { worker, background, known: RefCell::default(), for_copies: RefCell::default() }
    }

    fn local(&self, endpoint: &Arc<Endpoint>) -> Rc<LocalEndpoint> {
        self.known_in(&self.known, endpoint, None)
    }

    fn for_copies(&self, endpoint: &Arc<Endpoint>) -> Rc<LocalEndpoint> {
        self.known_in(&self.for_copies, endpoint, Some(&self.background))
    }

    fn known_in(
        &self,
        known: &RefCell<Known>,
        endpoint: &Arc<Endpoint>,
        background: Option<&Rc<Background>>,
    ) -> Rc<LocalEndpoint> {
        let mut known = known.borrow_mut();
        let new =
            || Rc::new(LocalEndpoint::new(Arc::clone(endpoint), self.worker).behind_requests(background.cloned()));
        Rc::clone(known.entry(endpoint.id).or_insert_with(new))
    }

    /// Closes all that idles.
    pub(super) fn let_go(&self) {
        for known in [&self.known, &self.for_copies] {
            known.borrow().values().for_each(|endpoint| endpoint.let_go());
        }
    }

    /// Closes all that idles of what is for copies.
    pub(super) fn let_go_of_copies(&self) {
        self.for_copies.borrow().values().for_each(|endpoint| endpoint.let_go());
    }

    /// Closes what has idled too long.
    pub(super) fn sweep(&self, now_ms: u64) {
        for known in [&self.known, &self.for_copies] {
            known.borrow_mut().retain(|_, endpoint| {
                endpoint.sweep(now_ms);
                Rc::strong_count(endpoint) > 1 || endpoint.has_connections()
            });
        }
    }
}
