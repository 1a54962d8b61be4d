//! Whether there is room to spare. Copies of requests are what is given up first when there is none: long before a
//! request has to be refused or finds no descriptor for its endpoint.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Percent of a limit from which there is none, and below which there is again. Requests are refused from 85 % of the
/// memory on.
const SHORT: (u64, u64) = (75, 70);

/// Written by the control thread; whoever makes a copy reads whether it suffices.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Headroom {
    short: AtomicBool,
    files: AtomicU64,
    files_limit: AtomicU64,
}

/// So much of something, and the most of it that there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub used: u64,
    pub limit: u64,
}

impl Usage {
    fn reaches(self, percent: u64) -> bool {
        self.limit > 0 && u128::from(self.used) * 100 >= u128::from(self.limit) * u128::from(percent)
    }
}

impl Headroom {
    #[must_use]
    pub fn suffices(&self) -> bool {
        !self.short.load(Ordering::Relaxed)
    }

    /// Open files, as last seen, and how many there may be.
    #[must_use]
    pub fn files(&self) -> Usage {
        Usage { used: self.files.load(Ordering::Relaxed), limit: self.files_limit.load(Ordering::Relaxed) }
    }

    /// Takes note of what is in use; whether it suffices, where that has changed.
    pub fn observe(&self, memory: Usage, files: Usage) -> Option<bool> {
        self.files.store(files.used, Ordering::Relaxed);
        self.files_limit.store(files.limit, Ordering::Relaxed);
        let before = self.short.load(Ordering::Relaxed);
        let percent = if before { SHORT.1 } else { SHORT.0 };
        let after = memory.reaches(percent) || files.reaches(percent);
        self.short.store(after, Ordering::Relaxed);
        (before != after).then_some(!after)
    }
}

/// Files that this process has open. Older kernels than Linux 6.2 don't count them: there it is the lowest number that
/// is free, which all lower ones aren't.
#[must_use]
pub fn open_files() -> u64 {
    const FOLDER: &str = "/proc/self/fd";
    match fs::metadata(FOLDER) {
        Ok(folder) if folder.len() > 0 => folder.len(),
        // No room for one more is as many as can be.
        _ => File::open("/dev/null").map_or(u64::MAX, |file| u64::try_from(file.as_raw_fd()).unwrap_or(u64::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: Usage = Usage { used: 1, limit: 1000 };

    fn used(percent: u64) -> Usage {
        Usage { used: percent * 10, limit: 1000 }
    }

    #[test]
    fn either_of_both_may_be_short_and_it_ends_well_below() {
        let headroom = Headroom::default();
        assert!(headroom.suffices());
        for (memory, files, changed) in [
            (used(74), used(74), None),
            (used(75), PLENTY, Some(false)),
            (used(71), PLENTY, None),
            (used(69), used(80), None),
            (PLENTY, used(70), None),
            (PLENTY, used(69), Some(true)),
            (PLENTY, used(75), Some(false)),
        ] {
            assert_eq!(headroom.observe(memory, files), changed, "{memory:?} {files:?}");
        }
        assert!(!headroom.suffices());
    }

    #[test]
    fn what_has_no_limit_is_never_short() {
        let headroom = Headroom::default();
        let endless = Usage { used: 1 << 40, limit: u64::MAX };
        assert_eq!(headroom.observe(Usage { used: 5, limit: 0 }, endless), None);
        assert_eq!(headroom.files(), endless);
    }

    #[test]
    fn open_files_are_counted() {
        let before = open_files();
        let files: Vec<File> = (0..200).map(|_| File::open("/dev/null").unwrap()).collect();
        assert!(open_files() >= before.max(200), "{} with {}", open_files(), files.len());
    }
}
