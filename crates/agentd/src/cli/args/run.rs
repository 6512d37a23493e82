//! What a sandbox is to be, and what is to be run in it.

use super::super::duration;
use agentd_core::{Bytes, CpuQuota, Network, Profile};
use agentd_image::Reference;
use clap::{Args, ValueEnum};
use std::{ffi::OsString, path::PathBuf, time::Duration};

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ProfileArg {
    Strict,
    Default,
    Permissive,
}

impl From<ProfileArg> for Profile {
    fn from(arg: ProfileArg) -> Self {
        match arg {
            ProfileArg::Strict => Self::Strict,
            ProfileArg::Default => Self::Default,
            ProfileArg::Permissive => Self::Permissive,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetworkArg {
    /// Loopback only
    Off,
    /// The host's network
    Host,
}

impl From<NetworkArg> for Network {
    fn from(arg: NetworkArg) -> Self {
        match arg {
            NetworkArg::Off => Self::Off,
            NetworkArg::Host => Self::Host,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentd run -- python3 -c 'print(6*7)'
  agentd run --memory 512M --timeout 2m -- make test
  agentd run --workspace none --ro ./data -- sort data/words
  agentd run -it -- bash

Exit codes: the command's own; 124 deadline; 125 agentd itself could not;
126 not executable; 127 not found; 128+n ended by signal n.")]
pub(crate) struct RunArgs {
    /// Backend by name, or the best that proves files, processes, network and system calls
    #[arg(long, default_value = "auto", value_name = "auto|NAME")]
    pub backend: String,
    #[command(flatten)]
    pub boundary: BoundaryArgs,
    #[command(flatten)]
    pub command: CommandArgs,
    /// Keep what it writes in its own root on disk, at most so much, instead of in memory (as root; backend container)
    #[arg(long, value_name = "SIZE")]
    pub disk: Option<Bytes>,
    /// Print one JSON object about the run, with the output in it
    #[arg(long, conflicts_with_all = ["interactive", "tty"])]
    pub json: bool,
    /// Print the plan of every layer and run nothing
    #[arg(long)]
    pub explain: bool,
}

/// The boundary and what is seen through it.
#[derive(Debug, Args)]
pub(crate) struct BoundaryArgs {
    /// Which system calls are let through [default: default]
    #[arg(long, value_enum)]
    pub profile: Option<ProfileArg>,
    /// Image to run in (see `agentd image`), with its env and workdir, without its USER, ENTRYPOINT and CMD
    #[arg(long, value_name = "REF")]
    pub image: Option<Reference>,
    /// Directory that the command may change: the current one, another, or none
    #[arg(long, value_name = "DIR|none")]
    pub workspace: Option<PathBuf>,
    /// The workspace may be read only
    #[arg(long)]
    pub workspace_ro: bool,
    /// Another path that the command may read, shown at the same place or at TARGET
    #[arg(long, value_name = "PATH[:TARGET]")]
    pub ro: Vec<PathBuf>,
    /// Another path that the command may change
    #[arg(long, value_name = "PATH[:TARGET]")]
    pub rw: Vec<PathBuf>,
    /// The network [default: off]
    #[arg(long, value_enum)]
    pub net: Option<NetworkArg>,
    /// Memory of all its processes together, e.g. 512M
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Bytes>,
    /// Processors it may use, e.g. 1.5
    #[arg(long, value_name = "NUMBER")]
    pub cpus: Option<CpuQuota>,
    /// Weight when processors are contended, 100 being the usual
    #[arg(long, value_name = "1-10000", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub cpu_weight: Option<u32>,
    /// Processor time of all its processes together, e.g. 10s
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub cpu_time: Option<Duration>,
    /// Processes and threads alive at once
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    pub pids: Option<u32>,
    /// Files open in a process
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(3..=1_000_000))]
    pub open_files: Option<u64>,
    /// Size of any file written
    #[arg(long, value_name = "SIZE")]
    pub file_size: Option<Bytes>,
    /// Go on where a layer cannot be applied, and say which
    #[arg(long)]
    pub allow_degraded: bool,
}

/// A command.
#[derive(Debug, Args)]
pub(crate) struct CommandArgs {
    /// Wall-clock time, e.g. 500ms, 30s, 2m
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub timeout: Option<Duration>,
    /// Bytes of output, after which the command is ended
    #[arg(long, value_name = "SIZE")]
    pub max_output: Option<Bytes>,
    /// Give it a variable, the caller's or another value; it inherits none
    #[arg(long, value_name = "K[=V]")]
    pub env: Vec<String>,
    /// Working directory; the current one where it is granted
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short = 't', long)]
    pub tty: bool,
    /// The command
    #[arg(trailing_var_arg = true, required = true, value_name = "CMD")]
    pub argv: Vec<OsString>,
}
