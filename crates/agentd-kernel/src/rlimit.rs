//! Resource limits of a command (`setrlimit(2)`).

use agentd_core::Limits;
use rustix::process::{Resource, Rlimit};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};

/// Limits of one command; set between fork and exec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RlimitPlan {
    /// `RLIMIT_CPU`, seconds: `SIGXCPU` at the limit, `SIGKILL` one second later.
    pub cpu_seconds: Option<u64>,
    /// `RLIMIT_NOFILE`; without it, what this process had before [`raise_open_files`].
    pub open_files: Option<u64>,
    /// `RLIMIT_FSIZE`, bytes.
    pub file_size: Option<u64>,
    /// `RLIMIT_NPROC`: tasks of the payload's user in its user namespace, the supervisor's included.
    pub processes: Option<u64>,
}

impl RlimitPlan {
    /// The limits of a command. `RLIMIT_NPROC` stands in where no cgroup counts the processes.
    pub fn from_limits(limits: &Limits, cgroup_counts_processes: bool) -> Self {
        Self {
            cpu_seconds: limits.cpu_time.map(|t| t.as_secs().saturating_add(u64::from(t.subsec_nanos() > 0))),
            open_files: limits.open_files,
            file_size: limits.file_size.map(|b| b.0),
            // One for the supervisor, and one above the limit, so that going over it can be seen.
            processes: limits.processes.filter(|_| !cgroup_counts_processes).map(|n| u64::from(n) + 2),
        }
    }

    /// Sets them on this process. Async-signal-safe: it allocates nothing.
    pub fn apply(&self) -> rustix::io::Result<()> {
        let set = |resource, soft: Option<u64>, hard: Option<u64>| match soft {
            Some(_) => rustix::process::setrlimit(resource, Rlimit { current: soft, maximum: hard }),
            None => Ok(()),
        };
        set(Resource::Cpu, self.cpu_seconds, self.cpu_seconds.map(|s| s.saturating_add(1)))?;
        match (self.open_files, usual_open_files()) {
            (None, Some(usual)) => {
                let now = rustix::process::getrlimit(Resource::Nofile);
                rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(usual), ..now })?;
            }
            (given, _) => set(Resource::Nofile, given, given)?,
        }
        set(Resource::Fsize, self.file_size, self.file_size)?;
        set(Resource::Nproc, self.processes, self.processes)
    }
}

/// The soft limit of open files before it was raised; 0 until then.
static USUAL_OPEN_FILES: AtomicU64 = AtomicU64::new(0);

/// The soft limit of open files that commands of this process get, once [`raise_open_files`] was called.
pub fn usual_open_files() -> Option<u64> {
    Some(USUAL_OPEN_FILES.load(Ordering::Relaxed)).filter(|files| *files > 0)
}

/// Lets this process have as many open files as its hard limit allows. The soft one, 1024 as a rule, is for programs that use
/// `select(2)`; commands get that again, or `usual`, when a process that raised its own tells it.
pub fn raise_open_files(usual: Option<u64>) {
    let now = rustix::process::getrlimit(Resource::Nofile);
    let usual = usual.or(usual_open_files()).or(now.current).unwrap_or(0);
    if rustix::process::setrlimit(Resource::Nofile, Rlimit { current: now.maximum, ..now }).is_ok() {
        USUAL_OPEN_FILES.store(usual, Ordering::Relaxed);
    }
}

/// Keeps this process and its children from leaving core dumps, and the host from running its crash handler on them: 0 would
/// prevent files only, 1 is the value at which the kernel does not start the program in `core_pattern` either (`core(5)`,
/// `fs/coredump.c`).
///
/// Says what is left open: a caller who is not root, with a hard limit of 0, cannot raise it to 1, and then there are no files at
/// least.
pub fn no_core_dumps() -> Option<String> {
    let wanted = Rlimit { current: Some(1), maximum: Some(1) };
    let piped = || std::fs::read_to_string("/proc/sys/kernel/core_pattern").is_ok_and(|pattern| pattern.starts_with('|'));
    (rustix::process::setrlimit(Resource::Core, wanted).is_err() && piped()).then(|| {
        "a crash runs the host's handler in core_pattern: the caller's hard limit of core size is 0 (ulimit -Hc 1 prevents that)".to_owned()
    })
}
