//! Resource limits of a command (`setrlimit(2)`).

use agentd_core::Limits;
use rustix::process::{Resource, Rlimit};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};

/// Limits of one command, set between fork and exec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RlimitPlan {
    /// `RLIMIT_CPU`, seconds: `SIGXCPU` at the limit, `SIGKILL` one second later.
    pub cpu_seconds: Option<u64>,
    /// `RLIMIT_NOFILE`. If `None`, the soft limit that this process had before [`raise_open_files`].
    pub open_files: Option<u64>,
    /// `RLIMIT_FSIZE`, bytes.
    pub file_size: Option<u64>,
}

impl RlimitPlan {
    /// Returns the limits of a command. `RLIMIT_NPROC` is not included: commands inherit the supervisor's limit, which must
    /// match.
    pub fn from_limits(limits: &Limits) -> Self {
        Self {
            cpu_seconds: limits.cpu_time.map(|t| t.as_secs().saturating_add(u64::from(t.subsec_nanos() > 0))),
            open_files: limits.open_files,
            file_size: limits.file_size.map(|b| b.0),
        }
    }

    /// Sets the limits on this process. Async-signal-safe: allocates nothing.
    ///
    /// # Errors
    /// The errno of `setrlimit(2)`.
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
        set(Resource::Fsize, self.file_size, self.file_size)
    }
}

/// The soft limit of open files before [`raise_open_files`]; 0 until then.
static USUAL_OPEN_FILES: AtomicU64 = AtomicU64::new(0);

/// Returns the soft limit of open files for commands of this process, once [`raise_open_files`] has been called.
pub fn usual_open_files() -> Option<u64> {
    Some(USUAL_OPEN_FILES.load(Ordering::Relaxed)).filter(|files| *files > 0)
}

/// Raises the soft limit of open files of this process to its hard limit. The soft limit, usually 1024, protects programs
/// that use `select(2)`, so commands get it back. A parent that has raised its own limit passes the original one as `usual`.
pub fn raise_open_files(usual: Option<u64>) {
    let now = rustix::process::getrlimit(Resource::Nofile);
    let usual = usual.or(usual_open_files()).or(now.current).unwrap_or(0);
    if rustix::process::setrlimit(Resource::Nofile, Rlimit { current: now.maximum, ..now }).is_ok() {
        USUAL_OPEN_FILES.store(usual, Ordering::Relaxed);
    }
}

/// Disables core dumps of this process and its children, and prevents the host from running its crash handler on them. A limit of
/// 0 prevents core files only. With a limit of 1, the kernel does not start the program in `core_pattern` either (`core(5)`,
/// `fs/coredump.c`).
///
/// Returns a warning with a remedy if a crash still runs the handler: an unprivileged caller cannot raise a hard limit of 0 to 1.
/// Even in that case, core files are prevented.
pub fn no_core_dumps() -> Option<String> {
    let wanted = Rlimit { current: Some(1), maximum: Some(1) };
    let piped = || std::fs::read_to_string("/proc/sys/kernel/core_pattern").is_ok_and(|pattern| pattern.starts_with('|'));
    (rustix::process::setrlimit(Resource::Core, wanted).is_err() && piped()).then(|| {
        "a crash runs the host's core_pattern handler, because the caller's hard core limit is 0, which only root can raise — \
         set `* hard core 1` in /etc/security/limits.conf (or LimitCORE=1 in the service), then log in again"
            .to_owned()
    })
}
