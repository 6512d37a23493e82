//! What holds for limits where no cgroup can be made for them.

use agentd_kernel::cgroup::{CgroupPlan, Controller, Hierarchy};

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
