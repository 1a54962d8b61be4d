//! Which services requests have reached: whoever looks at all services now and then needn't look at those that nobody has
//! asked for, of which there may be thousands.

use std::sync::atomic::{AtomicU64, Ordering};

/// One bit for each service of a snapshot, by its index. Written by a worker's first request to a service under that
/// snapshot, and by nothing else; read a few times a second.
#[derive(Debug)]
pub struct UsedServices(Box<[AtomicU64]>);

impl UsedServices {
    #[must_use]
    pub fn new(services: usize) -> Self {
        Self((0..services.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    /// A request reaches the service.
    pub fn mark(&self, index: usize) {
        if let Some(word) = self.0.get(index / 64) {
            word.fetch_or(1 << (index % 64), Ordering::Relaxed);
        }
    }

    /// The indices of those that were reached.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(at, word)| {
            let mut bits = word.load(Ordering::Relaxed);
            std::iter::from_fn(move || {
                let lowest = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
                bits &= bits - 1;
                Some(at * 64 + lowest)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_reached_is_told_and_nothing_else() {
        let used = UsedServices::new(200);
        assert_eq!(used.iter().next(), None);
        for index in [199, 0, 64, 63, 0, 500] {
            used.mark(index);
        }
        assert_eq!(used.iter().collect::<Vec<_>>(), [0, 63, 64, 199]);
    }
}
