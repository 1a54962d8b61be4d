//! Coarse deadlines for one worker, and fine ones.
//!
//! A proxy arms a deadline or two for every request and almost none of them ever fires. Here arming one is a slab
//! insertion, moving one is a store, and a sweep every [`TICK`] looks at all of them: no timer wheel, no
//! allocation. A deadline fires up to two ticks late and never early, which is right for limits of seconds.
//!
//! Arming reads no clock: "now" is the last sweep, and a tick is added for what has passed since. Where a sweep comes
//! later than that (a worker that couldn't run for a while), it adds the rest to the deadlines armed since the one before.
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
    coarse: Deadlines,
    fine: Deadlines,
    /// Somebody sweeps the fine ones.
    sweeping: Cell<bool>,
    begun: Notify,
}

/// Those of one resolution.
#[derive(Debug)]
struct Deadlines {
    entries: RefCell<Slab<Entry>>,
    /// The last sweep, since the worker began.
    now_ms: Cell<u64>,
    /// Counts sweeps.
    sweep: Cell<u64>,
    tick_ms: u64,
}

#[derive(Debug)]
struct Entry {
    /// `u64::MAX`: not armed.
    deadline_ms: u64,
    /// The sweep after which it was armed.
    armed_after: u64,
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

/// What is left of a limit while nobody waits. However often it is interrupted, all waits together are as long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Left(u64);

/// A deadline passed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

impl Timers {
    #[must_use]
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            origin: Instant::now(),
            coarse: Deadlines::new(TICK),
            fine: Deadlines::new(FINE_TICK),
            sweeping: Cell::new(false),
            begun: Notify::new(),
        })
    }

    /// Milliseconds since this worker began, as of the last sweep.
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
            self.fine.now_ms.set(millis(self.origin.elapsed()));
            self.begun.notify_one();
        }
        self.insert(Resolution::Fine)
    }

    fn insert(self: &Rc<Self>, resolution: Resolution) -> Timer {
        let key = self.of(resolution).entries.borrow_mut().insert(Entry {
            deadline_ms: u64::MAX,
            armed_after: 0,
            waker: None,
        });
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
    fn new(tick: Duration) -> Self {
        Self { entries: RefCell::default(), now_ms: Cell::new(0), sweep: Cell::new(0), tick_ms: millis(tick) }
    }

    /// `now_ms`: since the worker began.
    fn sweep(&self, now_ms: u64) {
        let late_ms = now_ms.saturating_sub(self.now_ms.replace(now_ms)).saturating_sub(self.tick_ms);
        let sweep = self.sweep.replace(self.sweep.get() + 1);
        let mut due = Vec::new();
        for (_, entry) in self.entries.borrow_mut().iter_mut() {
            if late_ms > 0 && entry.armed_after == sweep {
                entry.deadline_ms = entry.deadline_ms.saturating_add(late_ms);
            }
            if entry.deadline_ms <= now_ms {
                due.extend(entry.waker.take());
            }
        }
        due.into_iter().for_each(Waker::wake);
    }
}

impl Left {
    /// All of a limit, for a coarse deadline.
    #[must_use]
    pub fn all_of(limit: Duration) -> Self {
        Self::counted_in(TICK, limit)
    }

    /// By the clock of sweeps, so that it is no less by any: with what may have passed since the last one, and less than a
    /// millisecond that either of them leaves out.
    fn counted_in(tick: Duration, limit: Duration) -> Self {
        Self(millis(limit).saturating_add(millis(tick)).saturating_add(2))
    }
}

impl Timer {
    fn deadlines(&self) -> &Deadlines {
        self.timers.of(self.resolution)
    }

    /// Arms, or moves, the deadline: at least `after` from now.
    pub fn set(&self, after: Duration) {
        self.resume(Left::counted_in(self.resolution.tick(), after));
    }

    /// Arms, or moves, the deadline: at least `after` from now, or at `end` if that comes first.
    pub fn set_until(&self, after: Duration, end: Option<Instant>) {
        self.set(end.map_or(after, |end| after.min(end.saturating_duration_since(Instant::now()))));
    }

    /// What is left until the deadline, which must be armed.
    #[must_use]
    pub fn left(&self) -> Left {
        let deadlines = self.deadlines();
        Left(deadlines.entries.borrow()[self.key].deadline_ms.saturating_sub(deadlines.now_ms.get()))
    }

    /// Arms, or moves, the deadline: what was left goes on from now.
    pub fn resume(&self, Left(left_ms): Left) {
        let deadlines = self.deadlines();
        let entry = &mut deadlines.entries.borrow_mut()[self.key];
        entry.deadline_ms = deadlines.now_ms.get().saturating_add(left_ms);
        entry.armed_after = deadlines.sweep.get();
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
    async fn a_deadline_is_never_early_and_at_most_two_ticks_late() {
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
            assert!(late <= TICK * 2 + Duration::from_millis(2), "{after:?}: {late:?} late");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_armed_after_its_worker_stood_still_is_not_early_and_others_are_not_late() {
        let timers = Timers::new();
        let mut context = Context::from_waker(Waker::noop());
        sweep_for(&timers, 300).await;
        let before = timers.timer();
        before.set(Duration::from_millis(600));
        sweep_for(&timers, 100).await;
        tokio::time::advance(Duration::from_millis(700)).await;
        let after = timers.timer();
        after.set(Duration::from_millis(400));
        timers.sweep();
        assert!(before.poll(&mut context).is_ready(), "800 ms have passed");
        assert!(after.poll(&mut context).is_pending());
        sweep_for(&timers, 400).await;
        assert!(after.poll(&mut context).is_pending());
        sweep_for(&timers, 100).await;
        assert!(after.poll(&mut context).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn waits_that_are_interrupted_are_as_long_together() {
        let timers = Timers::new();
        let mut context = Context::from_waker(Waker::noop());
        let (timer, mut left, mut waited_ms) = (timers.timer(), Left::all_of(Duration::from_millis(400)), 0);
        'waiting: loop {
            // A sweep in every other wait, and in no pause.
            timer.resume(left);
            for is_swept in [false, true] {
                if timer.poll(&mut context).is_ready() {
                    break 'waiting;
                }
                tokio::time::advance(TICK / 2).await;
                waited_ms += 50;
                if is_swept {
                    timers.sweep();
                }
            }
            left = timer.left();
            timer.clear();
        }
        assert!((400..=600).contains(&waited_ms), "{waited_ms}");
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
                assert!(late <= FINE_TICK * 2 + Duration::from_millis(4), "{after:?}: {late:?} late");
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
