//! `agentd call` and `agentd capability`.

use super::run::{NetworkArg, ProfileArg};
use agentd_core::{Bytes, CpuQuota, duration};
use agentd_state::IdempotencyKey;
use clap::{Args, Subcommand};
use std::{path::PathBuf, time::Duration};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentd call shell.exec.v1 --params '{\"command\": \"make test\"}' --timeout 2m
  agentd call fs.read.v1 --params '{\"path\": \"data/words\"}' --json
  agentd call code.run.v1 --params '{\"language\": \"bash\", \"source\": \"ls\"}' --key run-17

The options for the sandbox ask for less than the capability and the policies
permit. A request for more is refused.

Exit codes: that of the command, or 0 if the capability returned a result;
1 the capability failed; 77 refused; 124 time limit exceeded;
125 agentd failed, or was interrupted earlier; 128+n ended by signal n.")]
pub(crate) struct CallArgs {
    /// The capability, such as shell.exec.v1 (see `agentd capability ls`)
    #[arg(value_name = "CAPABILITY")]
    pub capability: String,
    /// The parameters: a JSON object, @FILE, or - for standard input
    #[arg(long, value_name = "JSON|@FILE|-", default_value = "{}", allow_hyphen_values = true)]
    pub params: String,
    /// Idempotency key: a repeated request with this key and the same content returns the outcome of the first
    #[arg(long, value_name = "KEY")]
    pub key: Option<IdempotencyKey>,
    /// Print one JSON object that describes the intent, its decision and its result
    #[arg(long)]
    pub json: bool,
    /// Write the signed receipt to FILE, and to FILE.intent the document that its digest `intent` identifies
    #[arg(long, value_name = "FILE")]
    pub receipt: Option<PathBuf>,
    /// Backend to use; it must have a boundary [default: auto]
    #[arg(long, value_name = "auto|NAME")]
    pub backend: Option<String>,
    #[command(flatten)]
    pub less: LessArgs,
}

/// Options that ask for a stricter sandbox.
#[derive(Debug, Args)]
pub(crate) struct LessArgs {
    /// System calls that are allowed
    #[arg(long, value_enum)]
    pub profile: Option<ProfileArg>,
    /// Host directory that the capability works in, or none [default: the current directory, if the capability uses one]
    #[arg(long, value_name = "DIR|none")]
    pub workspace: Option<PathBuf>,
    /// Make the workspace read-only
    #[arg(long)]
    pub workspace_ro: bool,
    /// Network access: off, allow=HOSTS, approve=HOSTS, preset=NAMES or file=PATH, as for `agentd run` [default: the hosts that
    /// the capability and the policies name]
    #[arg(long, value_name = "off|allow=|approve=|preset=|file=")]
    pub net: Vec<NetworkArg>,
    /// Wall-clock time limit, e.g. 500ms, 30s, 2m
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = duration::parse)]
    pub timeout: Option<Duration>,
    /// CPU time limit of all processes together, e.g. 10s
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = duration::parse)]
    pub cpu_time: Option<Duration>,
    /// Memory limit of all processes together, e.g. 512M (requires root or a delegated cgroup)
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory: Option<Bytes>,
    /// Maximum number of CPUs, e.g. 1.5
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub cpus: Option<CpuQuota>,
    /// Maximum number of processes and threads at a time
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    pub pids: Option<u32>,
    /// Maximum number of open files per process
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, value_parser = clap::value_parser!(u64).range(3..=1_000_000))]
    pub open_files: Option<u64>,
    /// Maximum size of each file that is written
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub file_size: Option<Bytes>,
    /// Maximum size of the output; a command that writes more is killed
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub max_output: Option<Bytes>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CapabilityCommand {
    /// List the capabilities
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a capability: its parameters, its result and its sandbox
    Show {
        /// The capability, such as shell.exec.v1
        #[arg(value_name = "CAPABILITY")]
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}
