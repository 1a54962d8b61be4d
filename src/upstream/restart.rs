//! Waiting for a backend whose endpoints all refuse connections, as they do while they are restarted in place. One of
//! those that wait tries, for all of its worker.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

/// Requests of one worker that wait for one backend.
const WAITING_MAX: usize = 1000;

/// Of one backend, as one worker sees it.
#[derive(Debug, Default)]
pub struct Restart {
    waiting: Cell<usize>,
    probed: Cell<bool>,
    /// Somebody got through, or nobody tries any more.
    news: Notify,
}

impl Restart {
    /// One more request waits; `None` when too many do.
    #[must_use]
    pub fn enter(self: &Rc<Self>) -> Option<Waiting> {
        if self.waiting.get() >= WAITING_MAX {
            return None;
        }
        self.waiting.set(self.waiting.get() + 1);
        Some(Waiting(Rc::clone(self)))
    }
}

/// A request that waits.
#[derive(Debug)]
pub struct Waiting(Rc<Restart>);

impl Waiting {
    /// To be the one that tries; `None` while another is.
    #[must_use]
    pub fn probe(&self) -> Option<Probe> {
        (!self.0.probed.replace(true)).then(|| Probe(Rc::clone(&self.0)))
    }

    /// Waits until it is worth a look again.
    pub async fn news(&self) {
        self.0.news.notified().await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

/// The request that tries; another one does when it is dropped.
#[derive(Debug)]
pub struct Probe(Rc<Restart>);

impl Probe {
    /// It got through: everybody can go.
    pub fn succeeded(self) {
        self.0.news.notify_waiters();
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.0.probed.set(false);
        self.0.news.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn only_so_many_wait() {
        let restart = Rc::new(Restart::default());
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| restart.enter().unwrap()).collect();
        assert!(restart.enter().is_none());
        waiting.pop();
        assert!(restart.enter().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_one_that_tries_leaves_another_takes_its_place() {
        let restart = Rc::new(Restart::default());
        let (first, second) = (restart.enter().unwrap(), restart.enter().unwrap());
        let probe = first.probe().unwrap();
        assert!(second.probe().is_none());
        let mut news = Box::pin(second.news());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(news.as_mut().poll(&mut cx).is_pending());
        drop((probe, first));
        news.await;
        assert!(second.probe().is_some());
    }
}
