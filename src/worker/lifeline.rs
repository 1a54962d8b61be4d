//! How a worker reaches its connections, to tell them to finish.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use super::Worker;
use crate::state::ListenerKey;

/// What a connection is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Signal {
    #[default]
    Serve,
    /// Finish what is under way, take nothing new, say so to the client.
    Drain,
    /// Close now.
    Close,
}

/// The part of a connection that outlives its changes of protocol.
#[derive(Debug)]
pub struct Lifeline {
    listener: ListenerKey,
    signal: Cell<Signal>,
    /// Carries something that is meant to last: a tunnel, server-sent events, a gRPC stream.
    long: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Lifeline {
    #[must_use]
    pub fn new(listener: ListenerKey) -> Rc<Self> {
        Rc::new(Self { listener, signal: Cell::default(), long: Cell::default(), waker: RefCell::default() })
    }

    /// The listener that accepted the connection.
    #[must_use]
    pub fn listener(&self) -> ListenerKey {
        self.listener
    }

    /// What the connection was told last; the task is woken when that changes.
    pub fn heard(&self, cx: &mut Context<'_>) -> Signal {
        match &mut *self.waker.borrow_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        self.signal.get()
    }

    /// Told to close, whatever is under way.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.signal.get() == Signal::Close
    }

    #[must_use]
    pub fn is_long(&self) -> bool {
        self.long.get()
    }

    pub fn mark_long(&self) {
        self.long.set(true);
    }

    /// Signals only ever get stronger.
    pub(super) fn signal(&self, signal: Signal) {
        if signal > self.signal.get() {
            self.signal.set(signal);
            if let Some(waker) = self.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}

/// A connection's place in its worker's list, until dropped.
#[derive(Debug)]
pub struct Registration {
    worker: Rc<Worker>,
    key: usize,
}

impl Registration {
    pub(super) fn new(worker: Rc<Worker>, key: usize) -> Self {
        Self { worker, key }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.worker.forget(self.key);
    }
}
