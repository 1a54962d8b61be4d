//! What became of the copies of a service's requests. Each ends in exactly one count: its answer's code, or why it was
//! dropped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::causes::causes;
use super::{CodeClass, Counter, Histogram, HistogramTotals};

causes! {
    /// Why a copy wasn't sent, or its answer wasn't read to the end.
    MirrorDrop {
        /// As many copies are under way, and wait, as may.
        Full = "full",
        /// It waited for others, or for a connection, in vain.
        QueueTimeout = "queue_timeout",
        /// Mirrors hold as much memory as they may.
        Memory = "memory",
        /// The process is short of memory or of descriptors: copies go first.
        Overloaded = "overloaded",
        /// The mirror was taken away or switched off while the copy waited.
        Removed = "removed",
        /// The backend is drained.
        Drained = "drained",
        /// The backend has no available endpoint, or none that could be connected to a moment ago.
        Unavailable = "unavailable",
        /// The last copies in a row have all broken, and only probes go there.
        HeldBack = "held_back",
        /// The backend, or its endpoint, has as many requests as it may.
        BackendFull = "backend_full",
        /// The request's body is larger than what is held.
        BodyTooLarge = "body_too_large",
        /// The backend took the request's body more slowly than it came.
        TooSlow = "too_slow",
        /// The request's body took longer to come than an answer may.
        BodyTimeout = "body_timeout",
        /// The request's body didn't come whole: its client left, or its endpoint didn't want all of it.
        RequestBroken = "request_broken",
        /// No connection.
        Connect = "connect",
        /// No connection, for want of descriptors, ports or buffers of our own.
        Exhausted = "exhausted",
        /// No answer, or none that could be understood, or half of one.
        Broken = "broken",
        Timeout = "timeout",
        /// Only the beginning of its answer was read.
        AnswerTooLarge = "answer_too_large",
    }
}

causes! {
    /// Why two answers weren't compared.
    PairDrop {
        /// Too many wait to be compared.
        Full = "full",
        /// Mirrors hold as much memory as they may.
        Memory = "memory",
        /// The primary took much longer than its shadow.
        Late = "late",
    }
}

/// One worker's counts for one mirror, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct MirrorCell {
    codes: [Counter; 6],
    dropped: [Counter; MirrorDrop::COUNT],
    pairs_dropped: [Counter; PairDrop::COUNT],
    /// Pairs of answers that were handed on to be compared.
    pub pairs: Counter,
    /// Second copies, to the backends that answered.
    pub noise: Counter,
    /// Copies sent to answers read.
    pub duration: Histogram,
}

impl MirrorCell {
    /// An answer was read.
    pub fn answered(&self, class: CodeClass) {
        self.codes[class as usize].add(1);
    }

    pub fn dropped(&self, why: MirrorDrop) {
        self.dropped[why as usize].add(1);
    }

    pub fn pair_dropped(&self, why: PairDrop) {
        self.pairs_dropped[why as usize].add(1);
    }
}

/// All workers' cells of one mirror. Outlives snapshots.
#[derive(Debug)]
pub struct MirrorMetrics {
    cells: Box<[OnceLock<Box<MirrorCell>>]>,
}

impl MirrorMetrics {
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self { cells: (0..workers).map(|_| OnceLock::new()).collect() }
    }

    /// The cell that worker `index`, and no other, writes.
    #[must_use]
    pub fn cell(&self, index: usize) -> &MirrorCell {
        self.cells[index].get_or_init(Box::default)
    }

    /// Everything, added up over the workers.
    #[must_use]
    pub fn totals(&self) -> MirrorTotals {
        let mut totals = MirrorTotals::default();
        for cell in self.cells.iter().filter_map(OnceLock::get) {
            let add = |totals: &mut [u64], counters: &[Counter]| {
                totals.iter_mut().zip(counters).for_each(|(total, counter)| *total += counter.value());
            };
            add(&mut totals.codes, &cell.codes);
            add(&mut totals.dropped, &cell.dropped);
            add(&mut totals.pairs_dropped, &cell.pairs_dropped);
            totals.pairs += cell.pairs.value();
            totals.noise += cell.noise.value();
            totals.duration.add(&cell.duration);
        }
        totals
    }
}

/// The sum of all workers' cells at one moment.
#[derive(Debug, Clone, Default)]
pub struct MirrorTotals {
    /// In the order of [`CodeClass::ALL`].
    pub codes: [u64; 6],
    /// In the order of [`MirrorDrop::ALL`].
    pub dropped: [u64; MirrorDrop::COUNT],
    /// In the order of [`PairDrop::ALL`].
    pub pairs_dropped: [u64; PairDrop::COUNT],
    pub pairs: u64,
    pub noise: u64,
    pub duration: HistogramTotals,
}

impl MirrorTotals {
    /// Copies whose answers were read.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.codes.iter().sum()
    }

    /// Copies that weren't sent, or whose answers weren't read to the end.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.iter().sum()
    }
}

/// Bytes of bodies that the mirrors of all services hold. Written by all workers, and only by those that hold some.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct MirrorMemory(AtomicU64);

impl MirrorMemory {
    /// Takes `bytes`, unless that makes more than `max`.
    pub fn take(&self, bytes: u64, max: u64) -> bool {
        let taken = self.0.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= max;
        if !taken {
            self.give_back(bytes);
        }
        taken
    }

    pub fn give_back(&self, bytes: u64) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }

    #[must_use]
    pub fn used(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one body holds of it, until dropped.
#[derive(Debug)]
pub struct MirrorShare {
    memory: Arc<MirrorMemory>,
    max: u64,
    taken: u64,
}

impl MirrorShare {
    /// Nothing yet; `max`: what all together may hold.
    #[must_use]
    pub fn new(memory: &Arc<MirrorMemory>, max: u64) -> Self {
        Self { memory: Arc::clone(memory), max, taken: 0 }
    }

    /// Takes `bytes` more, if there is room.
    pub fn take(&mut self, bytes: usize) -> bool {
        let taken = self.memory.take(bytes as u64, self.max);
        if taken {
            self.taken += bytes as u64;
        }
        taken
    }

    /// Gives back `bytes` of what it has.
    pub fn give_back(&mut self, bytes: usize) {
        let bytes = self.taken.min(bytes as u64);
        self.taken -= bytes;
        self.memory.give_back(bytes);
    }
}

impl Drop for MirrorShare {
    fn drop(&mut self) {
        self.memory.give_back(self.taken);
    }
}
