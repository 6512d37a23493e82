//! Limits that cannot be, and what holds where no cgroup can be made for them.

use agentd_core::{Bytes, IsolationError, Limits};
use agentd_kernel::cgroup::{CgroupPlan, Controller, Hierarchy};

/// The least memory in which a supervisor and a small command run.
const LEAST_MEMORY: Bytes = Bytes(1 << 20);

/// Refuses limits under which nothing could run.
pub(crate) fn check(limits: &Limits) -> Result<(), IsolationError> {
    let invalid = |what: &str, reason: String| Err(IsolationError::Invalid { what: what.to_owned(), reason });
    match limits.memory {
        Some(memory) if memory < LEAST_MEMORY => invalid("memory limit", format!("{memory} is less than {LEAST_MEMORY}")),
        _ if limits.processes == Some(0) => invalid("process limit", "the command itself is one".to_owned()),
        _ => Ok(()),
    }
}

/// Where no cgroup counts processor time, `RLIMIT_CPU` alone holds; says what that is short of.
pub(crate) fn cpu_time(cgroup: &mut CgroupPlan) -> Option<String> {
    if !cgroup.count_cpu_time || Hierarchy::detect().has(Controller::CpuTime) {
        return None;
    }
    cgroup.count_cpu_time = false;
    Some("processor time is limited for each process alone, because no writable cgroup counts it".to_owned())
}

/// Where no cgroup counts processes, `RLIMIT_NPROC` does, per user namespace (since Linux 5.14): the tasks a supervisor may see,
/// itself and one over the limit included.
pub(crate) fn processes(cgroup: &mut CgroupPlan) -> Option<u64> {
    let limit = cgroup.processes.filter(|_| !Hierarchy::detect().has(Controller::Pids))?;
    cgroup.processes = None;
    Some(u64::from(limit) + 2)
}
