//! Control groups (`cgroups(7)`, `Documentation/admin-guide/cgroup-v2.rst`, `cgroup-v1/`): limits and usage of a whole sandbox.
//!
//! [`Hierarchy`] finds the directories in which groups can be created. [`Cgroup`] is one created group, with a directory per
//! controller on version 1. The process that creates a group removes it; [`Hierarchy::sweep`] removes groups whose creator was
//! killed.

mod freezer;
mod group;
mod hierarchy;
mod stats;
mod sweep;
#[cfg(test)]
mod tests;

pub use freezer::Freezer;
pub use group::Cgroup;
pub use hierarchy::Hierarchy;
pub use stats::{GroupUsage, Watch, WatchKind};

use agentd_core::{Bytes, CpuQuota, Limits};
use serde::{Deserialize, Serialize};

/// A controller that a limit needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Controller {
    /// Memory, including page cache and tmpfs.
    Memory,
    /// Number of tasks.
    Pids,
    /// Share of processor time.
    Cpu,
    /// Processor time used. On version 2 every group counts it.
    CpuTime,
    /// Freezing processes. On version 2 every group can be frozen.
    Freezer,
    /// Processors and memory nodes. Used on version 1 only, for [`CgroupPlan::for_runtimes`].
    CpuSet,
}

impl Controller {
    /// Returns the name of the controller in the kernel's interface.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
            Self::CpuTime => "cpuacct",
            Self::Freezer => "freezer",
            Self::CpuSet => "cpuset",
        }
    }
}

/// Limits of a group. `None` means no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPlan {
    /// Memory in bytes; swap is off.
    pub memory: Option<u64>,
    /// Processes and threads of the payload.
    pub processes: Option<u32>,
    /// Threads of the supervisor, which are also in the group. They are added to `processes`.
    pub own_threads: u32,
    /// Processor time per wall time.
    pub cpu_quota: Option<CpuQuota>,
    /// Weight among sibling groups, 1–10000.
    pub cpu_weight: Option<u32>,
    /// True if processor time must be counted. The limit itself is enforced from outside: the kernel has no such limit for
    /// groups.
    pub count_cpu_time: bool,
    /// True if language runtimes read the limits. On version 1, the group is then in all hierarchies in which they look.
    pub for_runtimes: bool,
}

impl CgroupPlan {
    /// Returns the part of `limits` that a group enforces. `own_threads` is the number of threads of the supervisor.
    pub fn from_limits(limits: &Limits, own_threads: u32) -> Self {
        Self {
            memory: limits.memory.map(|b| b.0),
            processes: limits.processes,
            own_threads,
            cpu_quota: limits.cpu_quota,
            cpu_weight: limits.cpu_weight,
            count_cpu_time: limits.cpu_time.is_some(),
            for_runtimes: false,
        }
    }

    /// Returns the controllers that the plan needs.
    pub fn controllers(&self) -> Vec<Controller> {
        let mut needed = Vec::new();
        if self.memory.is_some() {
            needed.push(Controller::Memory);
        }
        if self.processes.is_some() {
            needed.push(Controller::Pids);
        }
        if self.cpu_quota.is_some() || self.cpu_weight.is_some() {
            needed.push(Controller::Cpu);
        }
        if self.count_cpu_time {
            needed.push(Controller::CpuTime);
        }
        needed
    }

    /// Describes the limits for reports.
    pub fn describe(&self) -> String {
        let parts = [
            self.memory.map(|bytes| format!("memory {}, no swap", Bytes(bytes))),
            self.processes.map(|count| format!("{count} processes")),
            self.cpu_quota.map(|quota| format!("{}.{:03} CPUs", quota.0 / 1000, quota.0 % 1000)),
            self.cpu_weight.map(|weight| format!("CPU weight {weight}")),
            self.count_cpu_time.then(|| "CPU time counted".to_owned()),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() { "no limits".to_owned() } else { parts.join("; ") }
    }

    /// Returns true if the plan needs no controller.
    pub fn is_empty(&self) -> bool {
        self.controllers().is_empty()
    }
}
