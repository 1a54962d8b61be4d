//! Changes take turns, and one that has begun comes to its end, whether or not its caller stays: what is written down must
//! have its effect, and whoever leaves in between must not part the two.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Mutex, MutexGuard};
use tokio::task::{AbortHandle, JoinError};

tokio::task_local! {
    static BEGUN: Arc<AtomicBool>;
}

/// Whose turn it is to change something.
#[derive(Debug, Default)]
pub(super) struct Turn(Mutex<()>);

impl Turn {
    /// Waits for one's turn; from then on the change is [seen through](see_through).
    pub(super) async fn take(&self) -> MutexGuard<'_, ()> {
        let turn = self.0.lock().await;
        // Nobody may leave changes that are tidegate's own.
        let _ = BEGUN.try_with(|begun| begun.store(true, Ordering::Relaxed));
        turn
    }
}

/// Has a change come to its end once it has begun. One that still waits for its turn when its caller leaves isn't made:
/// what it was meant for may be over by then.
///
/// # Errors
/// When it panics.
pub async fn see_through<F>(change: F) -> Result<F::Output, JoinError>
where
    F: Future<Output: Send> + Send + 'static,
{
    let begun = Arc::<AtomicBool>::default();
    let task = tokio::spawn(BEGUN.scope(Arc::clone(&begun), change));
    let _caller = Caller { begun, task: task.abort_handle() };
    task.await
}

struct Caller {
    begun: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Drop for Caller {
    fn drop(&mut self) {
        // On the control thread, so that it can't begin between the two.
        if !self.begun.load(Ordering::Relaxed) {
            self.task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    /// A change that waits for `turn` and for `disk`, and then has its effect.
    async fn change(turn: Arc<Turn>, disk: oneshot::Receiver<()>, effect: oneshot::Sender<()>) {
        let _turn = turn.take().await;
        disk.await.expect("the disk answers");
        effect.send(()).expect("somebody looks");
    }

    #[tokio::test]
    async fn a_change_that_has_begun_has_its_effect_and_one_that_waits_ends_with_its_caller() {
        let turn = Arc::<Turn>::default();
        let ((answer, disk), (effect, seen)) = (oneshot::channel(), oneshot::channel());
        let mut begun = Box::pin(see_through(change(Arc::clone(&turn), disk, effect)));
        let ((_never, disk), (effect, unseen)) = (oneshot::channel(), oneshot::channel());
        let mut waiting = Box::pin(see_through(change(Arc::clone(&turn), disk, effect)));
        for called in [&mut begun, &mut waiting] {
            tokio::select! {
                biased;
                _ = called => panic!("it may not end yet"),
                () = tokio::task::yield_now() => {}
            }
        }
        drop((begun, waiting));
        assert!(unseen.await.is_err(), "nobody waits for it any more");
        answer.send(()).expect("it is waited for");
        seen.await.expect("it has its effect");
        // And the next one has its turn.
        drop(turn.take().await);
    }
}
