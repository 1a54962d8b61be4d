//! Coarse deadlines for one worker, and fine ones.
//!
//! A proxy arms a deadline or two for every request and almost none of them ever fires. Here arming one is a slab
//! insertion, moving one is a store, and a sweep every [`TICK`] looks at all of them: no timer wheel, no
//! allocation. A deadline fires up to two ticks and a quarter late and never early, which is right for limits of seconds.
//!
//! Fine deadlines, for limits of milliseconds, are the same in a slab of their own, which is swept every
//! [`FINE_TICK`] for as long as there are any.
//!
//! The clock that they count by stands still while the worker does: what a machine that was paused, or a process that
//! may not run, lets pass is no client's and no endpoint's fault, and what came meanwhile is read before anybody is
//! given up.

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
    coarse: Deadlines,
    fine: Deadlines,
    /// Somebody sweeps the fine ones.
    sweeping: Cell<bool>,
    begun: Notify,
}

/// Those of one resolution, and the clock they count by.
#[derive(Debug)]
struct Deadlines {
    entries: RefCell<Slab<Entry>>,
    now_ms: Cell<u64>,
    /// When they were swept last, since the worker began.
    swept_ms: Cell<u64>,
    /// The most that the clock goes on by at once: a tick, and what a sweep may be late when nothing is wrong.
    step_ms: u64,
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

/// A deadline passed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

impl Timers {
    #[must_use]
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            origin: Instant::now(),
            coarse: Deadlines::new(TICK + TICK / 4),
            fine: Deadlines::new(FINE_TICK * 2),
            sweeping: Cell::new(false),
            begun: Notify::new(),
        })
    }

    /// Milliseconds that this worker has run, as of the last sweep.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.coarse.now_ms.get()
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
            self.fine.swept_ms.set(millis(self.origin.elapsed()));
            self.begun.notify_one();
        }
        self.insert(Resolution::Fine)
    }

    fn insert(self: &Rc<Self>, resolution: Resolution) -> Timer {
        let key = self.of(resolution).entries.borrow_mut().insert(Entry { deadline_ms: u64::MAX, waker: None });
        Timer { timers: Rc::clone(self), key, resolution }
    }

    fn of(&self, resolution: Resolution) -> &Deadlines {
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
        self.coarse.sweep(millis(self.origin.elapsed()));
    }

    /// Does the same for fine deadlines, while there are any; runs for ever.
    pub async fn sweep_fine(&self) {
        loop {
            self.begun.notified().await;
            while !self.fine.entries.borrow().is_empty() {
                tokio::time::sleep(FINE_TICK).await;
                self.fine.sweep(millis(self.origin.elapsed()));
            }
            self.sweeping.set(false);
        }
    }
}

impl Deadlines {
    fn new(step: Duration) -> Self {
        Self { entries: RefCell::default(), now_ms: Cell::new(0), swept_ms: Cell::new(0), step_ms: millis(step) }
    }

    /// `at_ms`: since the worker began.
    fn sweep(&self, at_ms: u64) {
        let passed_ms = at_ms.saturating_sub(self.swept_ms.replace(at_ms));
        let now_ms = self.now_ms.get() + passed_ms.min(self.step_ms);
        self.now_ms.set(now_ms);
        let mut due = Vec::new();
        for (_, entry) in self.entries.borrow_mut().iter_mut() {
            if entry.deadline_ms <= now_ms {
                due.extend(entry.waker.take());
            }
        }
        due.into_iter().for_each(Waker::wake);
    }
}

impl Timer {
    fn deadlines(&self) -> &Deadlines {
        self.timers.of(self.resolution)
    }

    /// Arms, or moves, the deadline: at least `after` from now.
    pub fn set(&self, after: Duration) {
        let deadlines = self.deadlines();
        // The clock's next step may be one that was due before, and must not make this early.
        let deadline_ms = deadlines.now_ms.get().saturating_add(millis(after)).saturating_add(deadlines.step_ms);
        deadlines.entries.borrow_mut()[self.key].deadline_ms = deadline_ms;
    }

    /// Arms, or moves, the deadline: at least `after` from now, or at `end` if that comes first.
    pub fn set_until(&self, after: Duration, end: Option<Instant>) {
        self.set(end.map_or(after, |end| after.min(end.saturating_duration_since(Instant::now()))));
    }

    /// The time until the deadline, which must be armed. What is left can be set again: the step that [`Timer::set`]
    /// adds is not part of it.
    #[must_use]
    pub fn left(&self) -> Duration {
        let deadlines = self.deadlines();
        let deadline_ms = deadlines.entries.borrow()[self.key].deadline_ms;
        Duration::from_millis(deadline_ms.saturating_sub(deadlines.now_ms.get()).saturating_sub(deadlines.step_ms))
    }

    /// Disarms it.
    pub fn clear(&self) {
        self.deadlines().entries.borrow_mut()[self.key].deadline_ms = u64::MAX;
    }

    /// Ready once the deadline has passed; otherwise the task is woken when it does.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let deadlines = self.deadlines();
        let entry = &mut deadlines.entries.borrow_mut()[self.key];
        if entry.deadline_ms <= deadlines.now_ms.get() {
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
        self.deadlines().entries.borrow_mut().remove(self.key);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use super::*;

    /// Passes `ms`, swept every tick.
    async fn sweep_for(timers: &Timers, ms: u64) {
        for _ in 0..ms / millis(TICK) {
            tokio::time::advance(TICK).await;
            timers.sweep();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_never_early_and_at_most_two_ticks_and_a_quarter_late() {
        let timers = Timers::new();
        for (begins_ms, after_ms) in [(0, 250), (1, 250), (99, 250), (50, 300), (50, 5000)] {
            sweep_for(&timers, 100).await;
            tokio::time::advance(Duration::from_millis(begins_ms)).await;
            let (start, after) = (Instant::now(), Duration::from_millis(after_ms));
            let mut waiting = tokio_test_task(timers.timeout(after, std::future::pending::<()>()));
            assert!(waiting.poll().is_pending());
            tokio::time::advance(Duration::from_millis(100 - begins_ms)).await;
            timers.sweep();
            while waiting.poll().is_pending() {
                sweep_for(&timers, 100).await;
            }
            let late = start.elapsed().checked_sub(after).expect("it is not early");
            assert!(late <= TICK * 9 / 4, "{after:?}: {late:?} late");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_stood_still_gives_nobody_up_early() {
        let timers = Timers::new();
        sweep_for(&timers, 300).await;
        // It couldn't run for longer than the limit, before or after it begins.
        for (stood_before_ms, stood_after_ms) in [(700, 0), (0, 700)] {
            tokio::time::advance(Duration::from_millis(stood_before_ms)).await;
            let mut waiting = tokio_test_task(timers.timeout(Duration::from_millis(400), std::future::pending::<()>()));
            assert!(waiting.poll().is_pending());
            tokio::time::advance(Duration::from_millis(stood_after_ms)).await;
            timers.sweep();
            assert!(waiting.poll().is_pending());
            sweep_for(&timers, 300).await;
            assert!(waiting.poll().is_pending(), "it has run for 400 ms at most");
            sweep_for(&timers, 200).await;
            assert_eq!(waiting.poll(), Poll::Ready(Err(Elapsed)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_future_wins_when_it_ends_first_and_leaves_nothing_behind() {
        let timers = Timers::new();
        let ended = timers.timeout(Duration::from_secs(1), std::future::ready(7)).await;
        assert_eq!(ended, Ok(7));
        assert!(timers.coarse.entries.borrow().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_moved_deadline_counts_from_the_move() {
        let timers = Timers::new();
        let timer = timers.timer();
        timer.set(Duration::from_millis(200));
        sweep_for(&timers, 200).await;
        timer.set(Duration::from_millis(200));
        sweep_for(&timers, 300).await;
        let mut context = Context::from_waker(Waker::noop());
        assert!(timer.poll(&mut context).is_pending());
        sweep_for(&timers, 100).await;
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
    async fn a_fine_deadline_is_never_early_and_at_most_three_fine_ticks_late() {
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
                assert!(late <= FINE_TICK * 3 + Duration::from_millis(2), "{after:?}: {late:?} late");
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
            let before = timers.fine.now_ms.get();
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(timers.fine.now_ms.get(), before);
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
