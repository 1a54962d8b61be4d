//! What is wrong with a backend of the demo, and for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// While it lasts, every request of its backend is answered wrongly. Begun and ended by the story, met by the backend's thread.
#[derive(Debug, Clone, Default)]
pub(super) struct Fault(Arc<State>);

#[derive(Debug, Default)]
struct State {
    lasts: AtomicBool,
    failed: AtomicU64,
}

impl Fault {
    pub(super) fn begin(&self) {
        self.0.lasts.store(true, Relaxed);
    }

    pub(super) fn end(&self) {
        self.0.lasts.store(false, Relaxed);
    }

    /// Whether a request is answered wrongly now, which is counted.
    pub(super) fn strikes(&self) -> bool {
        let lasts = self.0.lasts.load(Relaxed);
        self.0.failed.fetch_add(u64::from(lasts), Relaxed);
        lasts
    }

    /// Requests that have failed.
    pub(super) fn failed(&self) -> u64 {
        self.0.failed.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_fail_for_as_long_as_it_lasts() {
        let fault = Fault::default();
        let met = fault.clone();
        assert!(!met.strikes());
        fault.begin();
        assert!(met.strikes() && met.strikes());
        fault.end();
        assert!(!met.strikes());
        assert_eq!(fault.failed(), 2);
    }
}
