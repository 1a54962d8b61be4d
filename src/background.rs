//! What a worker does for nobody who waits: copies of requests, and connections that carry many of them. It stands back
//! behind requests, and is given up when the process gets short of something.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use tokio::sync::Notify;
use tokio::task::yield_now;

/// Steps that copies make before the worker looks whether a request can make one: each takes about as long as one of
/// a request does.
const STEPS_MAX: u32 = 8;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Background {
    /// That take turns, from their beginning on.
    enlisted: Rc<Cell<u32>>,
    turn: Cell<u64>,
    /// In this turn.
    steps: Cell<u32>,
    given_up: Notify,
}

impl Background {
    /// One more is about to take turns.
    #[must_use]
    pub fn enlist(&self) -> Enlisted {
        self.enlisted.set(self.enlisted.get() + 1);
        Enlisted(Rc::clone(&self.enlisted))
    }

    /// Runs `future` in turns with all others: after a few steps of theirs they wait until the runtime has polled what
    /// is ready, and has looked at the sockets, where requests may have come.
    pub async fn in_turns<F: Future>(&self, _enlisted: Enlisted, future: F) -> F::Output {
        let mut future = pin!(future);
        let mut waits = None;
        poll_fn(|cx| {
            if self.may_step(&mut waits) {
                return future.as_mut().poll(cx);
            }
            // Has the runtime wake this task once it has looked at the sockets.
            let _ = pin!(yield_now()).poll(cx);
            Poll::Pending
        })
        .await
    }

    /// `waits`: the turn in which whoever asks was told to wait.
    fn may_step(&self, waits: &mut Option<u64>) -> bool {
        if waits.take() == Some(self.turn.get()) {
            self.turn.set(self.turn.get() + 1);
            self.steps.set(0);
        }
        // A few, who make a step each, need no turns: a body that streams must not wait for nobody.
        let may = self.enlisted.get() <= STEPS_MAX || self.steps.get() < STEPS_MAX;
        if may {
            self.steps.set(self.steps.get() + 1);
        } else {
            *waits = Some(self.turn.get());
        }
        may
    }

    /// How many take turns.
    #[cfg(test)]
    pub(crate) fn enlisted(&self) -> u32 {
        self.enlisted.get()
    }

    /// Ends all that runs `unless_given_up`.
    pub fn give_up(&self) {
        self.given_up.notify_waiters();
    }

    /// What `future` comes to; `None` when it is given up before.
    pub async fn unless_given_up<F: Future>(&self, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = self.given_up.notified() => None,
        }
    }
}

/// Counts one that takes turns, until dropped.
#[derive(Debug)]
pub struct Enlisted(Rc<Cell<u32>>);

impl Drop for Enlisted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_a_worker(test: impl Future<Output = ()> + 'static) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().build_local(tokio::runtime::LocalOptions::default());
        runtime.unwrap().block_on(test);
    }

    #[test]
    fn whoever_waits_for_an_answer_has_its_turn_after_a_few_steps_of_copies() {
        on_a_worker(async {
            let (background, done) = (Rc::<Background>::default(), Rc::new(Cell::new(0)));
            for _ in 0..1_000 {
                let (background, done) = (Rc::clone(&background), Rc::clone(&done));
                let enlisted = background.enlist();
                tokio::task::spawn_local(async move {
                    background.in_turns(enlisted, async { done.set(done.get() + 1) }).await;
                });
            }
            let mut before = 0;
            while done.get() < 1_000 {
                yield_now().await;
                let steps = done.get() - before;
                // Where no more than may go at once are left, they do.
                assert!(steps <= STEPS_MAX || before + 2 * STEPS_MAX >= 1_000, "{steps} at once, after {before}");
                before = done.get();
            }
        });
    }

    #[test]
    fn what_is_given_up_ends_and_what_comes_after_goes_on() {
        on_a_worker(async {
            let background = Rc::<Background>::default();
            let known = Rc::clone(&background);
            let waiting =
                tokio::task::spawn_local(async move { known.unless_given_up(std::future::pending::<()>()).await });
            yield_now().await;
            background.give_up();
            assert_eq!(waiting.await.unwrap(), None);
            assert_eq!(background.unless_given_up(std::future::ready(1)).await, Some(1));
        });
    }
}
