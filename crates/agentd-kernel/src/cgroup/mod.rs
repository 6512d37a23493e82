//! Control groups (`cgroups(7)`, `Documentation/admin-guide/cgroup-v2.rst`, `cgroup-v1/`): limits and usage of a whole sandbox.
//!
//! [`Hierarchy`] finds where groups may be made; [`Cgroup`] is one made group, with a directory per controller on version 1.
//! Whoever makes a group removes it; what a killed maker left, [`Hierarchy::sweep`] removes.

mod group;
mod hierarchy;
mod stats;
mod sweep;
#[cfg(test)]
mod tests;

pub use group::Cgroup;
pub use hierarchy::Hierarchy;
pub use stats::{GroupUsage, Watch, WatchKind};

use agentd_core::{CpuQuota, Limits};
use serde::{Deserialize, Serialize};

/// A controller that a limit needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Controller {
    /// Memory, page cache and tmpfs.
    Memory,
    /// Number of tasks.
    Pids,
    /// Processor time.
    Cpu,
}

impl Controller {
    /// Its name in the kernel's interface.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
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
}

impl CgroupPlan {
    /// The part of `limits` that a group holds.
    pub fn from_limits(limits: &Limits) -> Self {
        Self {
            memory: limits.memory.map(|b| b.0),
            processes: limits.processes,
            cpu_quota: limits.cpu_quota,
            cpu_weight: limits.cpu_weight,
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
        needed
    }

    /// Whether it limits nothing.
    pub fn is_empty(&self) -> bool {
        self.controllers().is_empty()
    }
}
