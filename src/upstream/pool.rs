//! Connections to one endpoint, kept by one worker: a stack of idle ones for HTTP/1, a few shared ones for
//! HTTP/2. The last one used is the first one used again, so that the ones not needed grow old and go.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::Either;
use http::{Request, Response};
use tokio::sync::oneshot;

use super::body::RequestBody;
use super::connect::{self, ConnectError, UpgradedStream};
use super::endpoint::PoolKey;
use super::http1::Http1Connection;
use super::http2::Http2Connection;
use super::limiter::Permit;
use super::local::LocalEndpoint;
use super::send::{AnswerBody, Http1Sending, SendError};
use super::{AttemptEnd, TrialClaim};
use crate::config::UpstreamProtocol;
use crate::model::Ends;
use crate::timers::Timers;

/// Requests on one HTTP/2 connection before another is opened, where the endpoint allows more.
const STREAMS_MAX: usize = 100;
/// HTTP/2 connections of one worker to one endpoint; beyond, requests queue on the least loaded.
const SHARED_CONNECTIONS_MAX: usize = 32;

/// An HTTP/2 connection that carries many requests at once.
#[derive(Debug)]
pub(super) struct SharedConnection {
    http2: Http2Connection,
    idle_since_ms: Cell<u64>,
    idle_timeout_ms: u64,
}

impl SharedConnection {
    fn has_room(&self) -> bool {
        !self.is_closed() && self.http2.streams() < STREAMS_MAX.min(self.http2.streams_max())
    }

    fn is_closed(&self) -> bool {
        self.http2.is_closed()
    }

    pub(super) fn is_used(&self) -> bool {
        self.http2.streams() > 0
    }

    /// Closed, or unused for too long.
    pub(super) fn expired(&self, now_ms: u64) -> bool {
        let idle_ms = now_ms.saturating_sub(self.idle_since_ms.get());
        self.is_closed() || (!self.is_used() && idle_ms >= self.idle_timeout_ms)
    }
}

/// Idle HTTP/1 connections, the most recently used last.
#[derive(Debug)]
pub(super) struct IdleStack {
    idle: VecDeque<(Rc<Http1Connection>, u64)>,
    limits: PoolKey,
}

impl IdleStack {
    pub(super) fn new(limits: PoolKey) -> Self {
        Self { idle: VecDeque::new(), limits }
    }

    /// The most recently used connection that is still open.
    fn pop(&mut self) -> Option<Rc<Http1Connection>> {
        while let Some((connection, _)) = self.idle.pop_back() {
            if !connection.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    fn push(&mut self, connection: Rc<Http1Connection>, now_ms: u64) {
        if self.limits.idle_max == 0 {
            return;
        }
        if self.idle.len() >= self.limits.idle_max {
            self.idle.pop_front();
        }
        self.idle.push_back((connection, now_ms));
    }

    pub(super) fn clear(&mut self) {
        self.idle.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.idle.is_empty()
    }

    /// Closes those that have idled too long, and those that their endpoint has closed, which nobody is told.
    pub(super) fn expire(&mut self, now_ms: u64) {
        let timeout_ms = self.limits.idle_timeout_ms;
        self.idle.retain(|(connection, since)| now_ms.saturating_sub(*since) < timeout_ms && !connection.is_closed());
    }
}

/// Which connections a request may go out on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    Any,
    /// One opened for this request: its idle siblings may all have been closed by a restart.
    New,
}

/// The right to send one request to one endpoint. Counts as in flight while it lives; dropping it early closes
/// the HTTP/1 connection or resets the HTTP/2 stream.
#[derive(Debug)]
pub struct Lease {
    endpoint: Rc<LocalEndpoint>,
    timers: Rc<Timers>,
    connection: Connection,
    reused: bool,
    waited: bool,
    /// It tries out an ejected endpoint.
    trial: Option<TrialClaim>,
    /// Where the backend's concurrency is limited.
    permit: Option<Permit>,
}

#[derive(Debug)]
enum Connection {
    Http1(Rc<Http1Connection>),
    Http2(Rc<SharedConnection>),
    Returned,
}

impl Lease {
    /// An idle connection if there is one and `freshness` allows it, else a new one, which may be told of the client's
    /// `ends`. `permit` is given back with the lease.
    ///
    /// # Errors
    /// When connecting fails or takes longer than `limit`.
    pub async fn acquire(
        endpoint: &Rc<LocalEndpoint>,
        timers: &Rc<Timers>,
        limit: Duration,
        freshness: Freshness,
        ends: &Ends,
        permit: Option<Permit>,
    ) -> Result<Self, ConnectError> {
        let in_flight = InFlight::begin(endpoint);
        let is_shared = endpoint.endpoint.identity.protocol == UpstreamProtocol::Http2;
        // A shared connection that failed is closed, and so isn't found again.
        let idle = if is_shared || freshness == Freshness::Any { endpoint.pooled() } else { None };
        let waited = idle.is_none();
        let (connection, reused) = match idle {
            Some(connection) => (connection, true),
            None => {
                // Boxed: the large future of a rare path would be moved about with every request.
                let opened = Box::pin(timers.timeout(limit, open(endpoint, timers, *ends))).await;
                opened.unwrap_or(Err(ConnectError::Timeout))?
            }
        };
        if let Connection::Http2(shared) = &connection {
            shared.http2.begin();
        }
        in_flight.handed_over();
        let (endpoint, timers) = (Rc::clone(endpoint), Rc::clone(timers));
        Ok(Self { endpoint, timers, connection, reused, waited, trial: None, permit })
    }

    /// A connection that is there already, if there is one, for a request that needs no permit.
    #[must_use]
    pub(crate) fn reuse(endpoint: &Rc<LocalEndpoint>, timers: &Rc<Timers>) -> Option<Self> {
        let connection = endpoint.pooled()?;
        if let Connection::Http2(shared) = &connection {
            shared.http2.begin();
        }
        endpoint.begin();
        let (endpoint, timers) = (Rc::clone(endpoint), Rc::clone(timers));
        Some(Self { endpoint, timers, connection, reused: true, waited: false, trial: None, permit: None })
    }

    /// The attempt tries out the endpoint.
    #[must_use]
    pub fn on_trial(mut self, trial: Option<TrialClaim>) -> Self {
        self.trial = trial;
        self
    }

    /// The attempt came to nothing, and is made again: the next one there tries out the endpoint.
    pub fn replay(&mut self) {
        if let Some(claim) = self.trial.take() {
            self.endpoint.put_back(claim);
        }
    }

    /// Takes note of how the attempt ended.
    pub fn ended(&mut self, end: AttemptEnd) {
        self.endpoint.ended(end, self.trial.take());
    }

    #[must_use]
    pub fn endpoint(&self) -> &Rc<LocalEndpoint> {
        &self.endpoint
    }

    /// The connection carried a request before this one, so its other end may just have closed it.
    #[must_use]
    pub fn reused(&self) -> bool {
        self.reused
    }

    /// A connection had to be opened first, be it by somebody else.
    #[must_use]
    pub fn waited(&self) -> bool {
        self.waited
    }

    #[must_use]
    pub fn is_http2(&self) -> bool {
        matches!(self.connection, Connection::Http2(_))
    }

    /// Waits for at most `limit` until the endpoint says that it takes WebSockets over HTTP/2 (RFC 8441).
    pub(crate) async fn takes_extended_connect(&self, limit: Duration) -> bool {
        let Connection::Http2(shared) = &self.connection else { return false };
        self.timers.timeout(limit, shared.http2.extended_connect()).await.is_ok()
    }

    /// Sends a request; the future waits for the head of its response. HTTP/1 takes the body out of `request` and leaves
    /// its head, HTTP/2 takes all of it.
    pub fn send(
        &mut self,
        request: &mut Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<AnswerBody>, Box<SendError>>> + use<> {
        match &mut self.connection {
            Connection::Http1(connection) => {
                connection.begin(request, &self.endpoint.endpoint.identity.authority);
                Either::Left(Http1Sending(Rc::clone(connection)))
            }
            Connection::Http2(shared) => {
                let request = std::mem::replace(request, Request::new(RequestBody::Empty));
                Either::Right(shared.http2.send(request))
            }
            Connection::Returned => unreachable!("a lease is returned when its response has ended"),
        }
    }

    /// Asks for the raw stream, should the endpoint answer 101. HTTP/1 only.
    pub(crate) fn expect_upgrade(&self) -> Option<oneshot::Receiver<UpgradedStream>> {
        let Connection::Http1(connection) = &self.connection else { return None };
        Some(connection.expect_upgrade())
    }

    /// The endpoint didn't upgrade.
    pub(crate) fn forget_upgrade(&self) {
        if let Connection::Http1(connection) = &self.connection {
            connection.forget_upgrade();
        }
    }

    /// Request and response have both been passed on whole: the connection can carry another.
    pub fn give_back(&mut self) {
        self.returned(Http1Connection::leave);
    }

    /// The same for a request that nobody waits for: a connection that can't be used again at once is closed.
    pub(crate) fn give_back_or_close(&mut self) {
        self.returned(|connection| connection.close());
    }

    fn returned(&mut self, otherwise: fn(&Rc<Http1Connection>)) {
        match std::mem::replace(&mut self.connection, Connection::Returned) {
            Connection::Http1(connection) if connection.is_reusable() => {
                self.endpoint.idle.borrow_mut().push(connection, self.timers.now_ms());
            }
            Connection::Http1(connection) => otherwise(&connection),
            Connection::Http2(shared) => self.leave(&shared),
            Connection::Returned => return,
        }
        self.endpoint.end();
        // Whoever gets the place finds the connection.
        self.permit = None;
    }

    /// The response has been passed on whole, before the end of the request: that is still sent, as far as it comes.
    pub(crate) fn finish_request(&mut self) {
        if let Connection::Http1(connection) = &self.connection {
            connection.leave();
            self.connection = Connection::Returned;
            self.endpoint.end();
            self.permit = None;
        }
    }

    /// Its endpoint has closed the connection; one look at the socket.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(&self.connection, Connection::Http1(connection) if connection.is_gone())
    }

    fn leave(&self, shared: &SharedConnection) {
        shared.http2.end();
        shared.idle_since_ms.set(self.timers.now_ms());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match &self.connection {
            Connection::Http1(connection) => connection.close(),
            Connection::Http2(shared) => self.leave(shared),
            Connection::Returned => return,
        }
        self.endpoint.end();
    }
}

impl LocalEndpoint {
    /// A connection that is there already and has room for one more request.
    fn pooled(&self) -> Option<Connection> {
        match self.endpoint.identity.protocol {
            UpstreamProtocol::Http1 => self.idle.borrow_mut().pop().map(Connection::Http1),
            UpstreamProtocol::Http2 => self.shared_with_room().map(Connection::Http2),
        }
    }

    /// The fullest HTTP/2 connection with room for one more request, so that the others can grow idle and go.
    fn shared_with_room(&self) -> Option<Rc<SharedConnection>> {
        let mut connections = self.shared.borrow_mut();
        connections.retain(|c| !c.is_closed());
        if let Some(room) = connections.iter().filter(|c| c.has_room()).max_by_key(|c| c.http2.streams()) {
            return Some(Rc::clone(room));
        }
        let full = connections.len() >= SHARED_CONNECTIONS_MAX;
        connections.iter().filter(|_| full).min_by_key(|c| c.http2.streams()).cloned()
    }
}

/// A new connection, or one that somebody else opened meanwhile; the flag tells the latter.
async fn open(endpoint: &LocalEndpoint, timers: &Rc<Timers>, ends: Ends) -> Result<(Connection, bool), ConnectError> {
    match endpoint.endpoint.identity.protocol {
        UpstreamProtocol::Http1 => {
            Ok((Connection::Http1(Rc::new(connect::http1(&endpoint.endpoint, ends).await?)), false))
        }
        UpstreamProtocol::Http2 => {
            let (shared, waited) = open_shared(endpoint, timers).await?;
            Ok((Connection::Http2(shared), waited))
        }
    }
}

/// Waits while an HTTP/2 connection is being opened, so that a burst of requests opens one and not one each.
async fn open_shared(
    endpoint: &LocalEndpoint,
    timers: &Rc<Timers>,
) -> Result<(Rc<SharedConnection>, bool), ConnectError> {
    while endpoint.connecting.get() {
        endpoint.connected.notified().await;
        if let Some(shared) = endpoint.shared_with_room() {
            return Ok((shared, true));
        }
    }
    let connecting = Connecting::begin(endpoint);
    let shared = Rc::new(SharedConnection {
        http2: connect::http2(&endpoint.endpoint, timers, endpoint.background()).await?,
        idle_since_ms: Cell::new(timers.now_ms()),
        idle_timeout_ms: endpoint.endpoint.identity.pool.idle_timeout_ms,
    });
    endpoint.shared.borrow_mut().push(Rc::clone(&shared));
    drop(connecting);
    Ok((shared, false))
}

/// Marks that an HTTP/2 connection is being opened, and wakes the waiters however that ends.
struct Connecting<'a>(&'a LocalEndpoint);

impl<'a> Connecting<'a> {
    fn begin(endpoint: &'a LocalEndpoint) -> Self {
        endpoint.connecting.set(true);
        Self(endpoint)
    }
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.0.connecting.set(false);
        self.0.connected.notify_waiters();
    }
}

/// Counts an attempt as in flight while it is still connecting.
struct InFlight<'a>(&'a LocalEndpoint);

impl<'a> InFlight<'a> {
    fn begin(endpoint: &'a LocalEndpoint) -> Self {
        endpoint.begin();
        Self(endpoint)
    }

    /// The lease counts from here on.
    fn handed_over(self) {
        std::mem::forget(self);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}
