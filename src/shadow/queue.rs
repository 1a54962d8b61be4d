//! Pairs on their way from the workers to whoever compares them: one queue of all workers, bounded in number and in
//! bytes. What finds no room is dropped, so that comparing costs no more than it may.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use super::pair::{Answer, Pair};

/// An empty queue is looked at again after so long; a full one has a pair for each 20 us of it.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// What may wait, of all mirrors.
const PAIRS_MAX: usize = 1_024;
const BYTES_MAX: usize = 32 << 20;

/// There is no room: the pair is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// The workers' end.
#[derive(Debug)]
pub struct Queue {
    pairs: SyncSender<Message>,
    /// Of bodies that wait; workers add, whoever compares takes away.
    bytes: Arc<AtomicUsize>,
}

/// The other end.
#[derive(Debug)]
pub struct Pairs {
    pairs: Receiver<Message>,
    bytes: Arc<AtomicUsize>,
}

#[derive(Debug)]
enum Message {
    Pair(Box<Pair>),
    /// The process is about to end, and nobody wants to know any more.
    Stop,
}

/// What came of waiting.
#[derive(Debug)]
pub(super) enum Taken {
    Pair(Box<Pair>),
    /// Nothing came in time.
    Nothing,
    /// Nothing will.
    Stopped,
}

impl Queue {
    /// Both ends.
    #[must_use]
    pub fn new() -> (Self, Pairs) {
        let (sender, pairs) = sync_channel(PAIRS_MAX);
        let bytes = Arc::new(AtomicUsize::new(0));
        (Self { pairs: sender, bytes: Arc::clone(&bytes) }, Pairs { pairs, bytes })
    }

    /// Hands a pair over, if there is room.
    ///
    /// # Errors
    /// When there is none.
    pub fn offer(&self, pair: Pair) -> Result<(), Full> {
        let bytes = held(&pair);
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > BYTES_MAX
            || self.pairs.try_send(Message::Pair(Box::new(pair))).is_err()
        {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Full);
        }
        Ok(())
    }

    /// Has the other end stop, as far as it isn't awake anyway.
    pub(super) fn stop(&self) {
        // A full queue keeps it awake.
        let _ = self.pairs.try_send(Message::Stop);
    }
}

impl Pairs {
    /// The next pair, if there is one by now or after `time`, which may be shorter. It doesn't wait in the channel: workers
    /// would take a lock to wake this thread, which stands back behind theirs and may be stopped while it holds it.
    pub(super) fn take(&self, time: Duration) -> Taken {
        match self.pairs.try_recv() {
            Ok(Message::Pair(pair)) => {
                self.bytes.fetch_sub(held(&pair), Ordering::Relaxed);
                Taken::Pair(pair)
            }
            Err(TryRecvError::Empty) => {
                std::thread::sleep(time.min(LOOK_INTERVAL));
                Taken::Nothing
            }
            Ok(Message::Stop) | Err(TryRecvError::Disconnected) => Taken::Stopped,
        }
    }
}

fn held(pair: &Pair) -> usize {
    let answers: [Option<&Answer>; 3] = [Some(&pair.primary), Some(&pair.shadow), pair.noise.as_ref()];
    answers.into_iter().flatten().map(|answer| answer.body.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{answer, pair};
    use super::*;

    #[test]
    fn a_full_queue_takes_no_more_and_has_room_again_later() {
        let (queue, pairs) = Queue::new();
        let small = || pair(answer("a"), answer("b"), None);
        for _ in 0..PAIRS_MAX {
            assert_eq!(queue.offer(small()), Ok(()));
        }
        assert_eq!(queue.offer(small()), Err(Full));
        assert!(matches!(pairs.take(Duration::ZERO), Taken::Pair(..)));
        assert_eq!(queue.offer(small()), Ok(()));
        while let Taken::Pair(..) = pairs.take(Duration::ZERO) {}
        assert_eq!(queue.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn bodies_are_bounded_whoever_they_are_of() {
        let (queue, pairs) = Queue::new();
        let body = "x".repeat(1 << 20);
        let large = || pair(answer(&body), answer(&body), Some(answer(&body)));
        let taken = (0..100).take_while(|_| queue.offer(large()).is_ok()).count();
        assert_eq!(taken, BYTES_MAX / (3 << 20));
        assert!(matches!(pairs.take(Duration::ZERO), Taken::Pair(..)));
        assert_eq!(queue.offer(large()), Ok(()));
    }

    #[test]
    fn it_ends_with_the_workers_or_when_it_is_told_to() {
        let (queue, pairs) = Queue::new();
        assert!(matches!(pairs.take(Duration::ZERO), Taken::Nothing));
        queue.stop();
        assert!(matches!(pairs.take(Duration::from_secs(60)), Taken::Stopped));
        drop(queue);
        assert!(matches!(pairs.take(Duration::from_secs(60)), Taken::Stopped));
    }
}
