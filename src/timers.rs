//! Coarse deadlines for one worker, and fine ones.
//!
//! A proxy arms a deadline or two for every request and almost none of them ever fires. Here arming one is a slab
//! insertion, moving one is a store, and a sweep every [`TICK`] looks at all of them: no timer wheel, no
//! allocation. A deadline fires up to two ticks late and never early, which is right for limits of seconds.
//!
//! Fine deadlines, for limits of milliseconds, are the same in a slab of their own, which is swept every
//! [`FINE_TICK`] for as long as there are any.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How often deadlines are looked at.
pub const TICK: Duration = Duration::from_millis(100);
/// How often fine deadlines are looked at, while there are any.
pub const FINE_TICK: Duration = Duration::from_millis(5);

/// All deadlines of one worker.
#[derive(Debug)]
pub struct Timers {
    origin: Instant,
    now_ms: Cell<u64>,
    coarse: RefCell<Slab<Entry>>,
    fine: RefCell<Slab<Entry>>,
    /// Somebody sweeps the fine ones, so that the clock is at most a fine tick behind.
    sweeping: Cell<bool>,
    begun: Notify,
}

#[derive(Debug)]
struct Entry {
    /// `u64::MAX`: not armed.
    deadline_ms: u64,
    waker: Option<Waker>,
}

/// One deadline; forgotten when dropped.
#[derive(Debug)]
pub struct Timer {
    timers: Rc<Timers>,
    key: usize,
    resolution: Resolution,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resolution {
    Coarse,
    Fine,
}

impl Resolution {
    fn tick(self) -> Duration {
        match self {
            Self::Coarse => TICK,
            Self::Fine => FINE_TICK,
        }
    }
}

/// A deadline passed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

impl Timers {
    #[must_use]
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            origin: Instant::now(),
            now_ms: Cell::new(0),
            coarse: RefCell::default(),
            fine: RefCell::default(),
            sweeping: Cell::new(false),
            begun: Notify::new(),
        })
    }

    /// Milliseconds since this worker began, as of the last sweep.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    /// A deadline that isn't armed yet.
    #[must_use]
    pub fn timer(self: &Rc<Self>) -> Timer {
        self.insert(Resolution::Coarse)
    }

    /// A fine deadline that isn't armed yet. Somebody must [`sweep_fine`](Self::sweep_fine).
    #[must_use]
    pub fn fine_timer(self: &Rc<Self>) -> Timer {
        if !self.sweeping.replace(true) {
            self.now_ms.set(millis(self.origin.elapsed()));
            self.begun.notify_one();
        }
        self.insert(Resolution::Fine)
    }

    fn insert(self: &Rc<Self>, resolution: Resolution) -> Timer {
        let key = self.entries(resolution).borrow_mut().insert(Entry { deadline_ms: u64::MAX, waker: None });
        Timer { timers: Rc::clone(self), key, resolution }
    }

    fn entries(&self, resolution: Resolution) -> &RefCell<Slab<Entry>> {
        match resolution {
            Resolution::Coarse => &self.coarse,
            Resolution::Fine => &self.fine,
        }
    }

    /// Runs `future` until it ends or `limit` passes.
    ///
    /// # Errors
    /// [`Elapsed`] when the limit passed first; the future is dropped then.
    pub async fn timeout<F: Future>(self: &Rc<Self>, limit: Duration, future: F) -> Result<F::Output, Elapsed> {
        let timer = self.timer();
        timer.set(limit);
        let mut future = pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => timer.poll(cx).map(|()| Err(Elapsed)),
        })
        .await
    }

    /// Wakes whoever waits for a deadline that has passed. Call it every [`TICK`].
    pub fn sweep(&self) {
        self.wake(Resolution::Coarse);
    }

    /// Does the same for fine deadlines, while there are any; runs for ever.
    pub async fn sweep_fine(&self) {
        loop {
            self.begun.notified().await;
            while !self.fine.borrow().is_empty() {
                tokio::time::sleep(FINE_TICK).await;
                self.wake(Resolution::Fine);
            }
            self.sweeping.set(false);
        }
    }

    fn wake(&self, resolution: Resolution) {
        let now_ms = millis(self.origin.elapsed());
        self.now_ms.set(now_ms);
        let mut due = Vec::new();
        for (_, entry) in self.entries(resolution).borrow_mut().iter_mut() {
            if entry.deadline_ms <= now_ms {
                due.extend(entry.waker.take());
            }
        }
        due.into_iter().for_each(Waker::wake);
    }
}

impl Timer {
    fn entries(&self) -> &RefCell<Slab<Entry>> {
        self.timers.entries(self.resolution)
    }

    /// Arms, or moves, the deadline: at least `after` from now.
    pub fn set(&self, after: Duration) {
        // The clock may be a tick behind, and must not make this early.
        let deadline_ms =
            self.timers.now_ms.get().saturating_add(millis(after)).saturating_add(millis(self.resolution.tick()));
        self.entries().borrow_mut()[self.key].deadline_ms = deadline_ms;
    }

    /// Arms, or moves, the deadline: at least `after` from now, or at `end` if that comes first.
    pub fn set_until(&self, after: Duration, end: Option<Instant>) {
        self.set(end.map_or(after, |end| after.min(end.saturating_duration_since(Instant::now()))));
    }

    /// The time until the deadline, which must be armed. What is left can be set again: the tick that [`Timer::set`] adds is
    /// not part of it.
    #[must_use]
    pub fn left(&self) -> Duration {
        let deadline_ms = self.entries().borrow()[self.key].deadline_ms;
        let left = Duration::from_millis(deadline_ms.saturating_sub(self.timers.now_ms.get()));
        left.saturating_sub(self.resolution.tick())
    }

    /// Disarms it.
    pub fn clear(&self) {
        self.entries().borrow_mut()[self.key].deadline_ms = u64::MAX;
    }

    /// Ready once the deadline has passed; otherwise the task is woken when it does.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let entry = &mut self.entries().borrow_mut()[self.key];
        if entry.deadline_ms <= self.timers.now_ms.get() {
            return Poll::Ready(());
        }
        match &mut entry.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.entries().borrow_mut().remove(self.key);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use super::*;

    async fn sweep_after(timers: &Timers, ms: u64) {
        tokio::time::advance(Duration::from_millis(ms)).await;
        timers.sweep();
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_never_early_and_at_most_two_ticks_late() {
        let timers = Timers::new();
        let mut waiting = tokio_test_task(timers.timeout(Duration::from_millis(250), std::future::pending::<()>()));
        for _ in 0..3 {
            assert!(waiting.poll().is_pending());
            sweep_after(&timers, 100).await;
        }
        sweep_after(&timers, 100).await;
        assert_eq!(waiting.poll(), Poll::Ready(Err(Elapsed)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_future_wins_when_it_ends_first_and_leaves_nothing_behind() {
        let timers = Timers::new();
        let ended = timers.timeout(Duration::from_secs(1), std::future::ready(7)).await;
        assert_eq!(ended, Ok(7));
        assert!(timers.coarse.borrow().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_moved_deadline_counts_from_the_move() {
        let timers = Timers::new();
        let timer = timers.timer();
        timer.set(Duration::from_millis(200));
        sweep_after(&timers, 200).await;
        timer.set(Duration::from_millis(200));
        sweep_after(&timers, 200).await;
        let mut context = Context::from_waker(Waker::noop());
        assert!(timer.poll(&mut context).is_pending());
        sweep_after(&timers, 100).await;
        assert!(timer.poll(&mut context).is_ready());
        timer.clear();
        assert!(timer.poll(&mut context).is_pending());
    }

    /// Runs `future` beside the sweeper.
    async fn swept<F: Future>(timers: &Timers, future: F) -> F::Output {
        tokio::select! {
            () = timers.sweep_fine() => unreachable!("it runs for ever"),
            output = future => output,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fine_deadline_is_never_early_and_at_most_two_fine_ticks_late() {
        let timers = Timers::new();
        swept(&timers, async {
            for after_ms in [1, 10, 52, 103] {
                // Nobody has swept for a while.
                tokio::time::sleep(Duration::from_millis(333)).await;
                let (start, after) = (Instant::now(), Duration::from_millis(after_ms));
                let timer = timers.fine_timer();
                timer.set(after);
                poll_fn(|cx| timer.poll(cx)).await;
                let late = start.elapsed().checked_sub(after).expect("it is not early");
                // The clock of tests and tokio's timers have a resolution of 1 ms.
                assert!(late <= FINE_TICK * 2 + Duration::from_millis(2), "{after:?}: {late:?} late");
            }
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_sweeps_while_there_is_no_fine_deadline() {
        let timers = Timers::new();
        swept(&timers, async {
            let (one, other) = (timers.fine_timer(), timers.fine_timer());
            one.set(Duration::from_millis(20));
            poll_fn(|cx| one.poll(cx)).await;
            drop(one);
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(timers.sweeping.get());
            drop(other);
            tokio::time::sleep(FINE_TICK * 2).await;
            assert!(!timers.sweeping.get());
            let before = timers.now_ms();
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(timers.now_ms(), before);
        })
        .await;
    }

    struct Polled<F>(Pin<Box<F>>);

    fn tokio_test_task<F: Future>(future: F) -> Polled<F> {
        Polled(Box::pin(future))
    }

    impl<F: Future> Polled<F> {
        fn poll(&mut self) -> Poll<F::Output> {
            self.0.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        }
    }
}
