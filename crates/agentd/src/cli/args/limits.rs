//! Limits of a sandbox, for runs, named sandboxes and calls.

use agentd_core::{Bytes, CpuQuota, duration};
use clap::Args;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct LimitArgs {
    /// Memory limit of all processes together, e.g. 512M (requires root or a delegated cgroup)
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory: Option<Bytes>,
    /// Maximum number of CPUs, e.g. 1.5
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub cpus: Option<CpuQuota>,
    /// CPU time limit of all processes together, e.g. 10s
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = duration::parse)]
    pub cpu_time: Option<Duration>,
    /// Maximum number of processes and threads at a time
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    pub pids: Option<u32>,
    /// Maximum number of open files per process
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, value_parser = clap::value_parser!(u64).range(3..=1_000_000))]
    pub open_files: Option<u64>,
    /// Maximum size of each file that is written
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub file_size: Option<Bytes>,
}
