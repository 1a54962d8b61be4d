//! What the guard tells requests, and only tells: shared by all workers and all snapshots, hardly ever written.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Of one service.
#[derive(Debug, Default)]
pub struct ServiceWatch {
    /// In milliseconds; 0: nobody knows yet what is slow.
    slow_after_ms: AtomicU32,
    rescue_suspended: AtomicBool,
    /// How often all of its backends had failed.
    panics: AtomicU64,
}

impl ServiceWatch {
    /// An answer's head that comes later than this is slow, as seen from the moment the request was written to an open
    /// connection.
    #[must_use]
    pub fn slow_after(&self) -> Option<Duration> {
        match self.slow_after_ms.load(Ordering::Relaxed) {
            0 => None,
            ms => Some(Duration::from_millis(ms.into())),
        }
    }

    pub fn set_slow_after(&self, limit: Option<Duration>) {
        let ms = limit.map_or(0, |limit| u32::try_from(limit.as_millis()).unwrap_or(u32::MAX).max(1));
        self.slow_after_ms.store(ms, Ordering::Relaxed);
    }

    #[must_use]
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    pub fn count_panic(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Stable is the bad one: what fails elsewhere must not be sent there, too.
    #[must_use]
    pub fn is_rescue_suspended(&self) -> bool {
        self.rescue_suspended.load(Ordering::Relaxed)
    }

    pub fn suspend_rescue(&self, suspended: bool) {
        self.rescue_suspended.store(suspended, Ordering::Relaxed);
    }
}

/// Of one backend.
#[derive(Debug, Default)]
pub struct BackendWatch {
    suspect: AtomicBool,
    /// The most requests it had under way in the last minutes.
    peak_in_flight: AtomicU32,
    /// The bits of a float; 0: nobody has judged it.
    e_value: AtomicU64,
}

impl BackendWatch {
    /// There is evidence that its slow answers won't come: stable is asked, too, where that is safe.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn peak_in_flight(&self) -> u32 {
        self.peak_in_flight.load(Ordering::Relaxed)
    }

    pub fn set_peak_in_flight(&self, peak: u32) {
        self.peak_in_flight.store(peak, Ordering::Relaxed);
    }

    pub fn set_suspect(&self, suspect: bool) {
        self.suspect.store(suspect, Ordering::Relaxed);
    }

    /// The evidence against it: 1 when there is none.
    #[must_use]
    pub fn e_value(&self) -> f64 {
        match self.e_value.load(Ordering::Relaxed) {
            0 => 1.0,
            bits => f64::from_bits(bits),
        }
    }

    pub fn set_e_value(&self, e_value: f64) {
        self.e_value.store(e_value.to_bits(), Ordering::Relaxed);
    }
}
