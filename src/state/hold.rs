//! One hold of a service: its new requests wait while something is swapped underneath, and go on in order when it is
//! released. Shared by all workers and by the snapshots that have it; written to only while it lasts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// See the module's text.
#[derive(Debug)]
pub struct Hold {
    began: Instant,
    /// When it ends by itself, in milliseconds since it began.
    lasts_ms: AtomicU64,
    /// The most that wait at once.
    requests_max: AtomicU64,
    over: AtomicBool,
    /// Wakes those that wait in the order in which they came, those of one worker at least.
    released: Notify,
    renewed: Notify,
    waiting: AtomicU64,
    waited: AtomicU64,
    gave_up: AtomicU64,
    refused: AtomicU64,
}

/// What became of the requests of a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldCounts {
    /// Now.
    pub waiting: u64,
    /// In all, those that wait now and those that gave up included.
    pub waited: u64,
    /// Their client left, or their own time was over, before the hold was.
    pub gave_up: u64,
    /// Found no room.
    pub refused: u64,
}

impl Hold {
    #[must_use]
    pub fn new(time: Duration, requests_max: u64) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            lasts_ms: AtomicU64::new(millis(time)),
            requests_max: AtomicU64::new(requests_max),
            over: AtomicBool::new(false),
            released: Notify::new(),
            renewed: Notify::new(),
            waiting: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            gave_up: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// Lasts for `time` from now on, whatever was said before.
    pub fn renew(&self, time: Duration, requests_max: u64) {
        self.lasts_ms.store(millis(self.began.elapsed() + time), Ordering::Relaxed);
        self.requests_max.store(requests_max, Ordering::Relaxed);
        self.renewed.notify_one();
    }

    /// Waits until something else was said, since this was last asked by the one who asks.
    pub async fn renewed(&self) {
        self.renewed.notified().await;
    }

    /// When it ends by itself.
    #[must_use]
    pub fn ends(&self) -> Instant {
        self.began + Duration::from_millis(self.lasts_ms.load(Ordering::Relaxed))
    }

    #[must_use]
    pub fn requests_max(&self) -> u64 {
        self.requests_max.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn counts(&self) -> HoldCounts {
        HoldCounts {
            waiting: self.waiting.load(Ordering::Relaxed),
            waited: self.waited.load(Ordering::Relaxed),
            gave_up: self.gave_up.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Lets everybody go. Called once requests see a snapshot without it: those let go look again.
    pub(super) fn release(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.released.notify_waiters();
    }

    /// One more request waits; `None` when there is no room for it.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Option<Held> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.requests_max() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.waited.fetch_add(1, Ordering::Relaxed);
        Some(Held(Arc::clone(self)))
    }

    /// Waits until it is over.
    pub async fn over(&self) {
        let released = self.released.notified();
        if !self.is_over() {
            released.await;
        }
    }
}

/// A request that waits; one that is dropped before the hold is over has given up.
#[derive(Debug)]
pub struct Held(Arc<Hold>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        if !self.0.is_over() {
            self.0.gave_up.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use tokio::task::LocalSet;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_that_wait_go_in_the_order_in_which_they_came() {
        let (hold, order) = (Hold::new(Duration::from_secs(30), 100), Rc::new(RefCell::new(Vec::new())));
        let local = LocalSet::new();
        for number in 0..100 {
            let (hold, order) = (Arc::clone(&hold), Rc::clone(&order));
            local.spawn_local(async move {
                let held = hold.enter().unwrap();
                hold.over().await;
                drop(held);
                order.borrow_mut().push(number);
            });
        }
        local
            .run_until(async {
                while hold.counts().waiting < 100 {
                    tokio::task::yield_now().await;
                }
                hold.release();
            })
            .await;
        local.await;
        assert_eq!(*order.borrow(), (0..100).collect::<Vec<_>>());
        assert_eq!(hold.counts(), HoldCounts { waiting: 0, waited: 100, gave_up: 0, refused: 0 });
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_makes_room_and_has_given_up() {
        let hold = Hold::new(Duration::from_secs(30), 2);
        let (first, _second) = (hold.enter().unwrap(), hold.enter().unwrap());
        assert!(hold.enter().is_none());
        drop(first);
        let third = hold.enter().unwrap();
        hold.release();
        drop(third);
        assert_eq!(hold.counts(), HoldCounts { waiting: 1, waited: 3, gave_up: 1, refused: 1 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_that_is_over_keeps_nobody() {
        let hold = Hold::new(Duration::from_secs(30), 1);
        hold.release();
        hold.over().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewed_hold_lasts_from_now_on() {
        let hold = Hold::new(Duration::from_secs(30), 1);
        tokio::time::advance(Duration::from_secs(20)).await;
        hold.renew(Duration::from_secs(5), 7);
        assert_eq!((hold.ends() - Instant::now(), hold.requests_max()), (Duration::from_secs(5), 7));
    }
}
