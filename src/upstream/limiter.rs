//! How many requests a backend and its endpoints have at once, over all workers, and the line of those that wait for
//! room. Counted where a limit is configured, and touched by nobody else.
//!
//! ```text
//! room, and nobody in line -> in
//! else, room in line       -> in line, in the order of coming; the first one watches for room
//! else                     -> refused
//! ```

use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Notify};

use super::LocalEndpoint;
use crate::config::BackendLimits;
use crate::timers::Timers;

/// Requests at once. On cache lines of its own: every worker writes to it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct InUse(AtomicU32);

impl InUse {
    /// Never above `max`, not even for a moment: whoever found it so would wait for a room that is there.
    fn enter(&self, max: u32) -> bool {
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| (count < max).then_some(count + 1)).is_ok()
    }

    fn leave(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Of one endpoint.
#[derive(Debug)]
pub struct EndpointLimit {
    /// `u32::MAX`: nobody counts.
    max: AtomicU32,
    in_use: InUse,
}

impl Default for EndpointLimit {
    fn default() -> Self {
        Self { max: AtomicU32::new(u32::MAX), in_use: InUse::default() }
    }
}

impl EndpointLimit {
    /// Counts from the next request on.
    pub fn set(&self, max: Option<u32>) {
        self.max.store(max.unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    pub(super) fn has_room(&self) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        max == u32::MAX || self.in_use.0.load(Ordering::Relaxed) < max
    }

    /// Whether the request was counted; `None`: there is no room for it.
    fn enter(&self) -> Option<bool> {
        match self.max.load(Ordering::Relaxed) {
            u32::MAX => Some(false),
            max => self.in_use.enter(max).then_some(true),
        }
    }
}

/// Of one backend. Outlives snapshots, which say what the limits are.
#[derive(Debug, Default)]
pub struct Limiter {
    in_use: InUse,
    /// Requests in line.
    queued: InUse,
    /// Who holds it is the first in line; the others wait for it in order.
    line: Mutex<()>,
    freed: Notify,
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// As many wait as may.
    Full,
    /// The wait was as long as it may be.
    Late,
}

impl Limiter {
    /// Requests that are counted.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        self.in_use.0.load(Ordering::Relaxed)
    }

    /// Requests that wait.
    #[must_use]
    pub fn queued(&self) -> u32 {
        self.queued.0.load(Ordering::SeqCst)
    }

    /// Waits in line until `enter` finds room, for at most `limit`.
    ///
    /// # Errors
    /// When nobody more may wait, or the wait was in vain.
    pub async fn wait<T>(
        &self,
        queue_max: u32,
        limit: Duration,
        timers: &Rc<Timers>,
        enter: impl FnMut() -> Option<T>,
    ) -> Result<T, NoRoom> {
        if !self.queued.enter(queue_max) {
            return Err(NoRoom::Full);
        }
        let _queued = Queued(&self.queued);
        timers.timeout(limit, self.first_in_line(enter)).await.map_err(|_| NoRoom::Late)
    }

    async fn first_in_line<T>(&self, mut enter: impl FnMut() -> Option<T>) -> T {
        let _first = self.line.lock().await;
        loop {
            // Whoever leaves either sees somebody in line, and says so, or left before this look.
            if let Some(entered) = enter() {
                return entered;
            }
            self.freed.notified().await;
        }
    }

    /// Has the first in line look again: room may have been taken and given back unseen.
    pub fn nudge(&self) {
        if self.queued() > 0 {
            self.freed.notify_one();
        }
    }
}

/// Counts a request as waiting.
struct Queued<'a>(&'a InUse);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// One request's place at an endpoint and its backend, until dropped.
#[derive(Debug)]
pub struct Permit {
    endpoint: Rc<LocalEndpoint>,
    at_backend: bool,
    at_endpoint: bool,
}

impl Permit {
    /// A place at the endpoint that `pick` finds, if both it and the backend have room.
    pub fn enter(
        limiter: &Limiter,
        limits: &BackendLimits,
        pick: impl Fn() -> Option<Rc<LocalEndpoint>>,
    ) -> Option<Self> {
        /// Another worker may take the last place of what was picked.
        const PICKS_MAX: usize = 3;
        let at_backend = match limits.requests {
            Some(max) if !limiter.in_use.enter(max) => return None,
            limit => limit.is_some(),
        };
        for _ in 0..PICKS_MAX {
            let Some(endpoint) = pick() else { break };
            if let Some(at_endpoint) = endpoint.endpoint.limit.enter() {
                return Some(Self { endpoint, at_backend, at_endpoint });
            }
        }
        // Without a word: the first in line would wake itself. Who isn't in line says so.
        if at_backend {
            limiter.in_use.leave();
        }
        None
    }

    #[must_use]
    pub fn endpoint(&self) -> &Rc<LocalEndpoint> {
        &self.endpoint
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.at_endpoint {
            self.endpoint.endpoint.limit.in_use.leave();
        }
        let limiter = &self.endpoint.endpoint.limiter;
        if self.at_backend {
            limiter.in_use.leave();
        }
        limiter.nudge();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::future::Future;
    use std::task::{Context, Waker};

    use tokio::task::LocalSet;

    use super::super::local::tests::endpoint;
    use super::*;

    fn limits(requests: Option<u32>, requests_per_endpoint: Option<u32>) -> BackendLimits {
        BackendLimits { requests, requests_per_endpoint, queue: 100, queue_timeout: Duration::from_secs(1) }
    }

    #[tokio::test(start_paused = true)]
    async fn those_in_line_are_let_in_in_order_and_one_for_each_that_leaves() {
        let (endpoint, limits, timers) = (endpoint(1), limits(Some(1), None), Timers::new());
        let (inside, order) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(Vec::new())));
        let local = LocalSet::new();
        for number in 0..50 {
            let (endpoint, timers) = (Rc::clone(&endpoint), Rc::clone(&timers));
            let (inside, order) = (Rc::clone(&inside), Rc::clone(&order));
            local.spawn_local(async move {
                let limiter = &endpoint.endpoint.limiter;
                let enter = || Permit::enter(limiter, &limits, || Some(Rc::clone(&endpoint)));
                let permit = limiter.wait(100, Duration::from_secs(60), &timers, enter).await.unwrap();
                inside.set(inside.get() + 1);
                assert_eq!(inside.get(), 1);
                order.borrow_mut().push(number);
                tokio::task::yield_now().await;
                inside.set(inside.get() - 1);
                drop(permit);
            });
        }
        local.await;
        assert_eq!(*order.borrow(), (0..50).collect::<Vec<_>>());
        assert_eq!(endpoint.endpoint.limiter.queued(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_given_up_is_passed_on_to_the_next() {
        let (endpoint, limits, timers) = (endpoint(1), limits(Some(1), None), Timers::new());
        let limiter = &endpoint.endpoint.limiter;
        let enter = || Permit::enter(limiter, &limits, || Some(Rc::clone(&endpoint)));
        let first = enter().unwrap();
        let mut given_up = Box::pin(limiter.wait(2, Duration::from_secs(60), &timers, enter));
        let mut next = Box::pin(limiter.wait(2, Duration::from_secs(60), &timers, enter));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(given_up.as_mut().poll(&mut cx).is_pending() && next.as_mut().poll(&mut cx).is_pending());
        let third = limiter.wait(2, Duration::from_secs(60), &timers, enter).await;
        assert_eq!(third.err(), Some(NoRoom::Full));
        drop(first);
        drop(given_up);
        assert!(next.await.is_ok());
        assert_eq!(limiter.queued(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn full_endpoints_leave_the_backends_room_to_others() {
        let (endpoint, limits) = (endpoint(1), limits(Some(2), Some(1)));
        endpoint.endpoint.limit.set(limits.requests_per_endpoint);
        let limiter = &endpoint.endpoint.limiter;
        let enter = || Permit::enter(limiter, &limits, || Some(Rc::clone(&endpoint)));
        let first = enter().unwrap();
        assert!(enter().is_none() && !endpoint.endpoint.limit.has_room());
        drop(first);
        assert!(enter().is_some());
        assert_eq!((limiter.in_use.0.load(Ordering::SeqCst), endpoint.endpoint.limit.has_room()), (0, true));
    }

    #[test]
    fn threads_never_have_more_than_the_limit_and_nobody_is_forgotten() {
        let limiter = &*Box::leak(Box::new(Limiter::default()));
        let (inside, most) = (&*Box::leak(Box::<AtomicU32>::default()), &*Box::leak(Box::<AtomicU32>::default()));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                    let local = LocalSet::new();
                    let timers = Timers::new();
                    for _ in 0..500 {
                        let timers = Rc::clone(&timers);
                        local.spawn_local(async move {
                            let enter = || limiter.in_use.enter(3).then_some(());
                            limiter.wait(u32::MAX, Duration::from_secs(600), &timers, enter).await.unwrap();
                            let count = inside.fetch_add(1, Ordering::SeqCst) + 1;
                            most.fetch_max(count, Ordering::SeqCst);
                            tokio::task::yield_now().await;
                            inside.fetch_sub(1, Ordering::SeqCst);
                            limiter.in_use.leave();
                            limiter.nudge();
                        });
                    }
                    runtime.block_on(local);
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!((most.load(Ordering::SeqCst), limiter.queued()), (3, 0));
    }
}
