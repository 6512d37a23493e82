//! What a group counted, read through descriptors that outlive its path.

use serde::{Deserialize, Serialize};
use std::{os::fd::OwnedFd, time::Duration};

/// What a descriptor of [`Watch`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WatchKind {
    /// An eventfd; readable when the group ran out of memory. Version 1.
    OomEvent,
    /// `memory.oom_control`, version 1.
    OomControl,
    /// `memory.events`, version 2; `POLLPRI` when it changed.
    MemoryEvents,
    /// `pids.events`, version 2; `POLLPRI` when it changed.
    PidsEvents,
    /// `pids.events`, version 1, whose changes nobody is told of (seen on Linux 6.18).
    SilentPidsEvents,
    /// `memory.peak` or `memory.max_usage_in_bytes`.
    MemoryPeak,
    /// `cpuacct.usage`, version 1.
    CpuNanoseconds,
    /// `cpu.stat`, version 2.
    CpuStat,
}

/// A descriptor that tells of a group.
#[derive(Debug)]
pub struct Watch {
    /// What it is.
    pub kind: WatchKind,
    /// The descriptor.
    pub fd: OwnedFd,
}

/// What a group counted so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupUsage {
    /// Processes that the kernel killed for memory.
    pub oom_kills: u64,
    /// Forks that the process limit refused.
    pub pids_hits: u64,
    /// Peak memory in bytes, where the kernel keeps it.
    pub peak_memory: Option<u64>,
    /// Processor time of all its processes, dead ones included, where it is counted.
    pub cpu: Option<Duration>,
}

impl GroupUsage {
    /// Reads all counters that `watches` have. A group that is gone counts nothing.
    pub fn read(watches: &[Watch]) -> Self {
        let mut usage = Self::default();
        for watch in watches {
            match watch.kind {
                WatchKind::OomEvent => {}
                WatchKind::OomControl | WatchKind::MemoryEvents => usage.oom_kills = counter(&text(&watch.fd), "oom_kill"),
                WatchKind::PidsEvents | WatchKind::SilentPidsEvents => usage.pids_hits = counter(&text(&watch.fd), "max"),
                WatchKind::MemoryPeak => usage.peak_memory = text(&watch.fd).trim().parse().ok(),
                WatchKind::CpuNanoseconds => usage.cpu = text(&watch.fd).trim().parse().ok().map(Duration::from_nanos),
                WatchKind::CpuStat => usage.cpu = Some(Duration::from_micros(counter(&text(&watch.fd), "usage_usec"))),
            }
        }
        usage
    }
}

fn text(fd: &OwnedFd) -> String {
    let mut buffer = [0u8; 1024];
    let read = rustix::io::pread(fd, &mut buffer, 0).unwrap_or(0);
    String::from_utf8_lossy(&buffer[..read]).into_owned()
}

/// The value of `key` in a file of `key value` lines.
pub(super) fn counter(text: &str, key: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok()).unwrap_or(0)
}
