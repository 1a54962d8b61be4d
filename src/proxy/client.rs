//! One client connection, as its requests see it.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::time::Instant;

use super::Tunnel;
use super::headers::ForwardedClient;
use crate::model::Ends;
use crate::passage::{Inlet, Passage};
use crate::tls::ClientCertificate;
use crate::worker::{Lifeline, Worker};

/// What all requests of a connection share.
#[derive(Debug)]
pub struct Client {
    pub worker: Rc<Worker>,
    /// The peer's; a request's client may be another (`Origin`).
    pub address: SocketAddr,
    /// For endpoints that are told in a PROXY header.
    pub ends: Ends,
    pub lifeline: Rc<Lifeline>,
    pub activity: Activity,
    /// HTTP/1: what the connection becomes once its 101 is written.
    pub tunnel: RefCell<Option<Tunnel>>,
    /// The kernel may carry answers to its socket: a plain one, and HTTP/1.
    pub(crate) is_passable: Cell<bool>,
    passage: OnceCell<Rc<Passage>>,
    pub(super) forwarded: ForwardedClient,
}

impl Client {
    /// `port` is the one that the client connected to.
    #[must_use]
    pub fn new(
        worker: Rc<Worker>,
        lifeline: Rc<Lifeline>,
        ends: Ends,
        secure: bool,
        certificate: Option<ClientCertificate>,
    ) -> Rc<Self> {
        // A client on a dual-stack socket is the IPv4 client it really is.
        let address = SocketAddr::new(ends.client.ip().to_canonical(), ends.client.port());
        Rc::new(Self {
            worker,
            address,
            ends,
            lifeline,
            activity: Activity::default(),
            tunnel: RefCell::default(),
            is_passable: Cell::default(),
            passage: OnceCell::default(),
            forwarded: ForwardedClient::new(address.ip(), secure, ends.server.port(), certificate),
        })
    }

    /// The fingerprint of the certificate that the client showed.
    #[must_use]
    pub fn certificate(&self) -> Option<&str> {
        self.forwarded.certificate.as_ref().map(|certificate| certificate.fingerprint.as_str())
    }

    /// The way for a large answer past us, if there may be one.
    pub(super) fn open_passage(&self) -> Option<Inlet> {
        let is_passable = self.is_passable.get();
        is_passable.then(|| self.passage.get_or_init(|| Passage::new(Rc::clone(&self.worker.pipes))).open())?
    }

    /// There while what hyper writes may stand in for something else.
    pub(crate) fn passage(&self) -> Option<&Passage> {
        self.passage.get().map(|passage| &**passage).filter(|passage| passage.is_in_use())
    }

    /// An upgrade that was agreed on but never begun holds the client, and the client holds it.
    pub fn forget_tunnel(&self) {
        drop(self.tunnel.borrow_mut().take());
    }
}

/// What is under way on a connection: enough to tell, from outside of hyper, when it idles.
///
/// A connection idles once no request is alive, all of the last request was read, and everything written has been
/// flushed since. Only then may its socket be taken from hyper without losing a byte or a place in a message.
#[derive(Debug, Default)]
pub struct Activity {
    requests: Cell<u32>,
    begun: Cell<u64>,
    /// A request's body hasn't been read to its end.
    body_open: Cell<bool>,
    flushed: Cell<bool>,
    read: Cell<bool>,
    /// A request began since somebody last asked.
    progress: Cell<bool>,
    /// The socket takes no more bytes.
    write_blocked: Cell<bool>,
    /// The socket took bytes since somebody last asked.
    wrote: Cell<bool>,
    /// Who moves next on the stream that is being polled.
    turn: Cell<Option<Turn>>,
    /// The connection must not end as if it ended well.
    broken_off: Cell<bool>,
    /// What is dropped now is dropped because the client takes nothing.
    stalled: Cell<bool>,
    /// Requests that the client took back.
    cut: Cell<u64>,
}

/// Who an answer under way waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Endpoint,
    /// Until the deadline of its whole request, if that has one.
    Client(Option<Instant>),
}

/// Where a connection stands between two polls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A request is alive, or the end of an answer isn't flushed.
    Busy,
    /// The last request was answered without reading all of its body; where the next one begins only hyper knows.
    BodyUnread,
    /// Some bytes of the next request have come.
    ReadingHead,
    Idle,
}

impl Activity {
    /// A request's head is complete; alive until the guard is dropped.
    pub(super) fn request(&self, has_body: bool) {
        self.requests.set(self.requests.get() + 1);
        self.begun.set(self.begun.get() + 1);
        self.body_open.set(has_body);
        self.progress.set(true);
        // What the answer before had to wait for is over.
        self.turn.set(None);
    }

    pub(super) fn request_ended(&self, body_ended: bool) {
        self.requests.set(self.requests.get() - 1);
        if body_ended {
            self.body_open.set(false);
        }
        self.flushed.set(false);
        self.read.set(false);
    }

    /// Bytes, or the end of them, came from the client.
    pub fn read(&self) {
        if self.requests.get() == 0 {
            self.read.set(true);
        }
    }

    /// All that was written is on its way.
    pub fn flushed(&self) {
        self.flushed.set(true);
    }

    /// What was to be written was taken, at least some of it, or the client isn't ready for it.
    pub fn write(&self, taken: bool) {
        self.write_blocked.set(!taken);
        if taken {
            self.wrote.set(true);
        }
    }

    /// The client isn't ready for what there is.
    #[must_use]
    pub fn is_write_blocked(&self) -> bool {
        self.write_blocked.get()
    }

    /// Whether the client took bytes since this was last asked.
    #[must_use]
    pub fn take_wrote(&self) -> bool {
        self.wrote.replace(false)
    }

    /// An answer's body was asked for more: it waits for its endpoint, or has something for the client.
    pub(super) fn turn(&self, turn: Turn) {
        self.turn.set(Some(turn));
    }

    /// Whose turn it has become since this was last asked; `None`: no body was asked.
    #[must_use]
    pub fn take_turn(&self) -> Option<Turn> {
        self.turn.take()
    }

    /// The connection's end must not look like the end of what it carries.
    pub(super) fn break_off(&self) {
        self.broken_off.set(true);
    }

    #[must_use]
    pub fn is_broken_off(&self) -> bool {
        self.broken_off.get()
    }

    /// Begins or ends dropping what a client doesn't take.
    pub fn set_stalled(&self, stalled: bool) {
        self.stalled.set(stalled);
    }

    #[must_use]
    pub(super) fn has_stalled(&self) -> bool {
        self.stalled.get()
    }

    /// HTTP machinery begins anew on this connection.
    pub fn restart(&self) {
        self.flushed.set(true);
        self.read.set(false);
        self.body_open.set(false);
        self.write_blocked.set(false);
    }

    /// Whether a request began since this was last asked.
    #[must_use]
    pub fn take_progress(&self) -> bool {
        self.progress.replace(false)
    }

    /// A request was given up by its client, soon after it began.
    pub(super) fn request_cut(&self) {
        self.cut.set(self.cut.get() + 1);
    }

    /// Requests that were given up so.
    #[must_use]
    pub fn cut(&self) -> u64 {
        self.cut.get()
    }

    /// Requests this connection has ever carried.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.begun.get()
    }

    #[must_use]
    pub fn requests(&self) -> u32 {
        self.requests.get()
    }

    #[must_use]
    pub fn stage(&self) -> Stage {
        if self.requests.get() > 0 || !self.flushed.get() {
            Stage::Busy
        } else if self.body_open.get() {
            Stage::BodyUnread
        } else if self.read.get() {
            Stage::ReadingHead
        } else {
            Stage::Idle
        }
    }
}
