//! What is wrong with a backend of the demo, and for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// While it lasts, every request of its backend is answered wrongly. Begun and ended by the story, met by the backend's
/// thread.
#[derive(Debug, Clone, Default)]
pub(super) struct Fault(Arc<AtomicBool>);

impl Fault {
    pub(super) fn begin(&self) {
        self.0.store(true, Relaxed);
    }

    pub(super) fn end(&self) {
        self.0.store(false, Relaxed);
    }

    /// Whether a request is answered wrongly now.
    pub(super) fn strikes(&self) -> bool {
        self.0.load(Relaxed)
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
    }
}
