//! Control groups (`cgroups(7)`, `Documentation/admin-guide/cgroup-v2.rst`, `cgroup-v1/`): limits and usage of a whole sandbox.
//!
//! [`Hierarchy`] finds where groups may be made; [`Cgroup`] is one made group, with a directory per controller on version 1.
//! Whoever makes a group removes it; what a killed maker left, [`Hierarchy::sweep`] removes.

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
    /// Memory, page cache and tmpfs.
    Memory,
    /// Number of tasks.
    Pids,
    /// Share of processor time.
    Cpu,
    /// Processor time used. On version 2 every group counts it.
    CpuTime,
    /// Stopping. On version 2 every group can be stopped.
    Freezer,
}

impl Controller {
    /// Its name in the kernel's interface.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
            Self::CpuTime => "cpuacct",
            Self::Freezer => "freezer",
        }
    }
}

/// Limits of a group. `None` is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPlan {
    /// Bytes; swap is off.
    pub memory: Option<u64>,
    /// Processes and threads of the payload.
    pub processes: Option<u32>,
    /// Processor time per wall time.
    pub cpu_quota: Option<CpuQuota>,
    /// 1–10000.
    pub cpu_weight: Option<u32>,
    /// Whether processor time is to be counted. The limit itself is watched from outside: the kernel has none for a group.
    pub count_cpu_time: bool,
}

impl CgroupPlan {
    /// The part of `limits` that a group holds.
    pub fn from_limits(limits: &Limits) -> Self {
        Self {
            memory: limits.memory.map(|b| b.0),
            processes: limits.processes,
            cpu_quota: limits.cpu_quota,
            cpu_weight: limits.cpu_weight,
            count_cpu_time: limits.cpu_time.is_some(),
        }
    }

    /// The controllers it takes.
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

    /// What it limits, in words.
    pub fn describe(&self) -> String {
        let parts = [
            self.memory.map(|bytes| format!("memory {}, no swap", Bytes(bytes))),
            self.processes.map(|count| format!("{count} processes")),
            self.cpu_quota.map(|quota| format!("{}.{:03} CPUs", quota.0 / 1000, quota.0 % 1000)),
            self.cpu_weight.map(|weight| format!("CPU weight {weight}")),
            self.count_cpu_time.then(|| "processor time counted".to_owned()),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() { "no limits".to_owned() } else { parts.join("; ") }
    }

    /// Whether it limits nothing.
    pub fn is_empty(&self) -> bool {
        self.controllers().is_empty()
    }
}
