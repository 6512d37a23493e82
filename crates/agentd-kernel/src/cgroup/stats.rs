//! Counters of a group, read through descriptors that remain valid after its path is gone.

use serde::{Deserialize, Serialize};
use std::{os::fd::OwnedFd, time::Duration};

/// The kind of the descriptor of a [`Watch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WatchKind {
    /// An eventfd, readable when the group ran out of memory. Version 1.
    OomEvent,
    /// `memory.oom_control`, version 1.
    OomControl,
    /// `memory.events`, version 2; `POLLPRI` after a change.
    MemoryEvents,
    /// `pids.events`, version 2; `POLLPRI` after a change.
    PidsEvents,
    /// `pids.events`, version 1, whose changes cause no event (seen on Linux 6.18).
    SilentPidsEvents,
    /// `memory.peak` or `memory.max_usage_in_bytes`.
    MemoryPeak,
    /// `cpuacct.usage`, version 1.
    CpuNanoseconds,
    /// `cpu.stat`, version 2.
    CpuStat,
}

/// A descriptor that reports on a group.
#[derive(Debug)]
pub struct Watch {
    /// The kind of the descriptor.
    pub kind: WatchKind,
    /// The descriptor.
    pub fd: OwnedFd,
}

/// Usage of a group so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupUsage {
    /// Processes that the kernel killed for lack of memory.
    pub oom_kills: u64,
    /// Forks that the process limit refused.
    pub pids_hits: u64,
    /// Peak memory in bytes, if the kernel records it.
    pub peak_memory: Option<u64>,
    /// Processor time of all processes of the group, including dead ones, if counted.
    pub cpu: Option<Duration>,
}

impl GroupUsage {
    /// Reads all counters of `watches`. The counters of a removed group read as zero or `None`.
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

/// Returns the value of `key` in a file of `key value` lines, or 0 if it is missing.
pub(super) fn counter(text: &str, key: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok()).unwrap_or(0)
}
