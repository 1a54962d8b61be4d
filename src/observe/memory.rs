//! How much memory the process has in use, how much it may have, and what that means for requests.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::model::Overload;

/// Percent of what there is that is ours where the file doesn't say: sockets' buffers aren't counted as the process's.
const SHARE: u64 = 80;
const CGROUPS: &str = "/sys/fs/cgroup";

/// Written by the control thread; a request reads the level and nothing else.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Memory {
    level: AtomicU8,
    used: AtomicU64,
    limit: AtomicU64,
}

impl Memory {
    #[must_use]
    pub fn overload(&self) -> Overload {
        Overload::from_number(self.level.load(Ordering::Relaxed))
    }

    /// Nothing is short.
    #[must_use]
    pub fn suffices(&self) -> bool {
        self.level.load(Ordering::Relaxed) == 0
    }

    /// In bytes, as last seen.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Takes note of what is in use; the level before and after.
    pub fn observe(&self, used: u64, limit: u64) -> (Overload, Overload) {
        let before = self.overload();
        let after = before.next(used, limit);
        self.used.store(used, Ordering::Relaxed);
        self.limit.store(limit, Ordering::Relaxed);
        if after != before {
            self.level.store(after as u8, Ordering::Relaxed);
        }
        (before, after)
    }
}

/// Bytes of this process in memory; `None` where Linux doesn't say.
#[must_use]
pub fn resident() -> Option<u64> {
    let pages = resident_pages(&fs::read_to_string("/proc/self/statm").ok()?)?;
    Some(pages * rustix::param::page_size() as u64)
}

fn resident_pages(statm: &str) -> Option<u64> {
    statm.split(' ').nth(1)?.parse().ok()
}

/// What this process may use where nobody says: a share of what its cgroups allow, or else of what the machine has.
#[must_use]
pub fn default_limit() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| machine_bytes(&text));
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let allowed = limit_files(&cgroups).iter().filter_map(|path| cgroup_bytes(&fs::read_to_string(path).ok()?)).min();
    let bytes = machine.into_iter().chain(allowed).min().unwrap_or(u64::MAX);
    bytes / 100 * SHARE
}

fn machine_bytes(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes = total.trim().strip_suffix(" kB")?.parse::<u64>().ok()?;
    Some(kilobytes * 1024)
}

/// `max` is none; version 1 writes a number close to 2^63.
fn cgroup_bytes(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Where the limits of our cgroup and of those above it are written down. A container sees its own as the root.
fn limit_files(cgroups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (root, name) = match controllers {
            "" => (CGROUPS.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (format!("{CGROUPS}/memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let folders = Path::new(path).ancestors().filter_map(Path::to_str);
        files.extend(folders.map(|folder| format!("{root}{}/{name}", folder.trim_end_matches('/'))));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_understood() {
        assert_eq!(resident_pages("1221 543 312 4 0 180 0\n"), Some(543));
        assert_eq!(machine_bytes("MemTotal:       16318480 kB\nMemFree: 1 kB\n"), Some(16_318_480 * 1024));
        assert_eq!(cgroup_bytes("536870912\n"), Some(512 << 20));
        assert_eq!(cgroup_bytes("max\n"), None);
    }

    #[test]
    fn limits_are_looked_for_in_the_cgroup_and_above_it() {
        assert_eq!(
            limit_files("0::/system.slice/tidegate.service\n"),
            [
                "/sys/fs/cgroup/system.slice/tidegate.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max",
            ]
        );
        assert_eq!(limit_files("0::/\n"), ["/sys/fs/cgroup/memory.max"]);
        assert_eq!(
            limit_files("12:cpu,cpuacct:/\n5:hugetlb,memory:/docker/1\n"),
            [
                "/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/docker/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            ]
        );
        assert_eq!(limit_files(""), [""; 0]);
    }

    #[test]
    fn this_machine_has_memory_and_we_use_some_of_it() {
        let (used, limit) = (resident().unwrap(), default_limit());
        assert!(used > 1 << 20 && limit > used, "{used} of {limit}");
    }
}
