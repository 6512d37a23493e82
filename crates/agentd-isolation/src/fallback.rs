//! Refuses impossible limits, and plans replacements for limits that no cgroup can enforce.

use agentd_core::{Bytes, IsolationError, Limits};
use agentd_kernel::cgroup::{CgroupPlan, Controller, Hierarchy};

/// Size limit of the private file systems of a sandbox without a memory limit, in bytes.
pub(crate) const SCRATCH_BYTES: u64 = 2 << 30;

/// The minimum memory limit: a supervisor and a small command run in it.
const MIN_MEMORY: Bytes = Bytes(1 << 20);

/// Checks that a command can run under the limits.
///
/// # Errors
/// [`IsolationError::Invalid`] for a memory limit below 1 MiB or a process limit of 0.
pub fn check(limits: &Limits) -> Result<(), IsolationError> {
    let invalid = |what: &str, reason: String| Err(IsolationError::Invalid { what: what.to_owned(), reason });
    match limits.memory {
        Some(memory) if memory < MIN_MEMORY => {
            invalid("memory limit", format!("{memory} bytes are too few — allow at least {MIN_MEMORY}"))
        }
        _ if limits.processes == Some(0) => {
            invalid("process limit", "0 excludes the command itself — allow at least 1".to_owned())
        }
        _ => Ok(()),
    }
}

/// Removes the CPU time limit from the cgroup plan if no cgroup counts CPU time, and returns a note for the user. `RLIMIT_CPU`
/// then enforces the limit for each process separately.
pub(crate) fn cpu_time(cgroup: &mut CgroupPlan) -> Option<String> {
    if !cgroup.count_cpu_time || Hierarchy::detect().has(Controller::CpuTime) {
        return None;
    }
    cgroup.count_cpu_time = false;
    Some("CPU time is limited for each process separately, because no writable cgroup counts it".to_owned())
}

/// Removes the process limit from the cgroup plan if no cgroup counts processes, and returns the `RLIMIT_NPROC` that replaces it.
/// The kernel counts `RLIMIT_NPROC` per user namespace since Linux 5.14. The value includes the supervisor's own threads and one
/// task over the limit.
pub(crate) fn processes(cgroup: &mut CgroupPlan) -> Option<u64> {
    let limit = cgroup.processes.filter(|_| !Hierarchy::detect().has(Controller::Pids))?;
    cgroup.processes = None;
    Some(u64::from(limit) + u64::from(cgroup.own_threads) + 1)
}
