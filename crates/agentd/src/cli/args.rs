//! The command-line arguments.

mod daemon;
#[cfg(feature = "gondolin")]
mod gondolin;
#[cfg(feature = "images")]
mod image;
mod net;
mod records;
#[cfg(not(feature = "images"))]
mod reference;
mod run;
mod sandbox;
#[cfg(feature = "firecracker")]
mod vm;

#[cfg(feature = "images")]
pub(crate) use agentd_image::Reference;
pub(crate) use daemon::DaemonCommand;
#[cfg(feature = "gondolin")]
pub(crate) use gondolin::GondolinCommand;
#[cfg(feature = "images")]
pub(crate) use image::ImageCommand;
pub(crate) use net::{CheckArgs, NetCommand, read_grants};
pub(crate) use records::{AuditCommand, KeyCommand, LogArgs, ReceiptCommand};
#[cfg(not(feature = "images"))]
pub(crate) use reference::Reference;
pub(crate) use run::{BoundaryArgs, CommandArgs, NetworkArg, RequireArg, RunArgs};
pub(crate) use sandbox::{CreateArgs, ExecArgs, SandboxCommand};
#[cfg(feature = "firecracker")]
pub(crate) use vm::{VmBuildArgs, VmCommand};

use clap::{Args, Parser, Subcommand};
use std::{ffi::OsString, path::PathBuf};

/// Run commands of AI agents in sandboxes whose isolation is tested on this host.
#[derive(Debug, Parser)]
#[command(name = "agentd", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Sub,
}

impl Cli {
    /// Parses the arguments of a process, the first of which is the name of the program.
    ///
    /// # Errors
    /// The error, or the text of an option such as `--help`, which clap returns as an error.
    pub fn parse_all(args: impl Iterator<Item = OsString> + Clone) -> Result<Self, clap::Error> {
        // Describing all commands takes longer than everything else that parsing does. A run needs one.
        if args.clone().nth(1).is_some_and(|command| command == "run")
            && let Ok(RunCli { command: RunSub::Run(run) }) = RunCli::try_parse_from(args.clone())
        {
            return Ok(Self { command: Sub::Run(run) });
        }
        Self::try_parse_from(args)
    }
}

/// The command line with `run` alone. Only [`Cli`] knows enough for errors and help.
#[derive(Debug, Parser)]
#[command(name = "agentd")]
struct RunCli {
    #[command(subcommand)]
    command: RunSub,
}

#[derive(Debug, Subcommand)]
enum RunSub {
    Run(Box<RunArgs>),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Sub {
    /// Run a command in a sandbox
    Run(Box<RunArgs>),
    /// Create and manage named sandboxes, which exist until they are removed
    #[command(subcommand)]
    Sandbox(Box<SandboxCommand>),
    /// Inspect or stop the daemon that runs named sandboxes
    #[command(subcommand)]
    Daemon(DaemonCommand),
    /// Check network grants, and list presets
    #[command(subcommand)]
    Net(NetCommand),
    /// Read and verify the audit log
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Verify receipts
    #[command(subcommand)]
    Receipt(ReceiptCommand),
    /// Print or replace the key that signs receipts and the audit log
    #[command(subcommand)]
    Key(KeyCommand),
    /// Attack sandboxes of every backend from inside and print which isolation is proven
    Doctor(DoctorArgs),
    /// Measure sandboxes in comparison with a plain process and with other installed sandbox programs
    Bench(BenchArgs),
    /// Manage images for `run --image`
    #[cfg(feature = "images")]
    #[command(subcommand)]
    Image(ImageCommand),
    /// Build or install the files that the firecracker backend needs
    #[cfg(feature = "firecracker")]
    #[command(subcommand)]
    Vm(VmCommand),
    /// Install the files that the gondolin backend needs
    #[cfg(feature = "gondolin")]
    #[command(subcommand)]
    Gondolin(GondolinCommand),
    /// A command of a Cargo feature that is off in this build
    #[cfg(not(all(feature = "firecracker", feature = "gondolin", feature = "images")))]
    #[command(external_subcommand)]
    Other(Vec<OsString>),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man {
        /// Write a page for each command into this directory instead
        #[arg(value_name = "DIR")]
        directory: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Probe only this backend
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Number of rounds; each round measures every row once
    #[arg(long, value_name = "NUMBER", default_value = "200", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rounds: u32,
}
