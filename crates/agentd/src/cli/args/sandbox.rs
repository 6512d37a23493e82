//! `agentd sandbox`.

use super::{
    super::duration,
    run::{BoundaryArgs, CommandArgs},
};
use agentd_core::Bytes;
use agentd_sandboxes::Name;
use clap::{Args, Subcommand};
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub(crate) enum SandboxCommand {
    /// Create a sandbox from an image, or from the host's programs
    Create(Box<CreateArgs>),
    /// Run a command in a sandbox
    Exec(Box<ExecArgs>),
    /// List the sandboxes
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print all details of a sandbox as JSON
    Inspect {
        /// The name of the sandbox
        name: Name,
    },
    /// Print the output of a sandbox's detached commands
    Logs {
        /// The name of the sandbox
        name: Name,
        /// Print new output until interrupted
        #[arg(short, long)]
        follow: bool,
    },
    /// Copy a file into or out of a sandbox
    #[command(
        after_help = "One of FROM and TO is NAME:PATH, with an absolute path in the sandbox; `-` is standard input or output."
    )]
    Cp {
        /// The file to copy
        from: String,
        /// The destination
        to: String,
    },
    /// Pause all processes of a sandbox
    Pause {
        /// The name of the sandbox
        name: Name,
    },
    /// Resume the processes of a paused sandbox
    Resume {
        /// The name of the sandbox
        name: Name,
    },
    /// Save the files of a sandbox as a named snapshot
    Snapshot {
        /// The name of the sandbox
        name: Name,
        /// The name of the snapshot
        snapshot: Name,
        /// Delete the snapshot instead of saving one
        #[arg(long)]
        delete: bool,
    },
    /// Create new sandboxes with the same files
    Fork {
        /// The name of the sandbox
        name: Name,
        /// Start from this snapshot instead of the current state
        #[arg(long, value_name = "SNAPSHOT")]
        of: Option<Name>,
        /// The names of the new sandboxes
        #[arg(required = true)]
        new: Vec<Name>,
    },
    /// Resolve the paths of a sandbox's grants again, after a file or directory of the host was replaced
    Regrant {
        /// The name of the sandbox
        name: Name,
        /// Follow symbolic links, even if a command may have created them
        #[arg(long)]
        follow_links: bool,
        /// Print the changes of grants and of protected paths as JSON
        #[arg(long)]
        json: bool,
    },
    /// Restore a snapshot; running commands are killed
    Restore {
        /// The name of the sandbox
        name: Name,
        /// The name of the snapshot
        snapshot: Name,
    },
    /// List the changed files of a sandbox: A added, C changed, D removed
    Diff {
        /// The name of the sandbox
        name: Name,
        /// Compare with this snapshot instead of the state at creation
        #[arg(long, value_name = "SNAPSHOT")]
        since: Option<Name>,
    },
    /// Kill the commands of sandboxes, and remove the sandboxes
    Rm {
        /// The names of the sandboxes
        #[arg(required = true)]
        names: Vec<Name>,
        /// Print the last changes of protected paths as JSON, one object for each removed sandbox
        #[arg(long)]
        json: bool,
    },
    /// Check the stored sandboxes for damage
    Fsck,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentd sandbox create dev --image debian:12 --memory 2G --disk 10G
  agentd sandbox exec -it dev -- bash
  agentd sandbox snapshot dev clean
  agentd sandbox fork dev try-1 try-2 try-3")]
#[command(mut_arg("workspace", |arg| arg.help("Host directory that commands may change [default: none]")))]
pub(crate) struct CreateArgs {
    /// The name of the sandbox: lower-case letters, digits, '.', '_' and '-'
    pub name: Name,
    #[command(flatten)]
    pub boundary: BoundaryArgs,
    /// Disk size for the files of the sandbox and its snapshots; each fork gets a disk of the same size (requires root)
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub disk: Option<Bytes>,
    /// Remove the sandbox when it has not been used for this time
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = duration::parse)]
    pub idle_ttl: Option<Duration>,
    /// Remove the sandbox this time after its creation
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = duration::parse)]
    pub ttl: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(mut_arg("cwd", |arg| arg.help("Working directory in the sandbox [default: that of the image, or the home directory]")))]
pub(crate) struct ExecArgs {
    /// The name of the sandbox
    pub name: Name,
    /// Return at once and leave the command running; the output of the command goes to the sandbox's log
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    pub detach: bool,
    #[command(flatten)]
    pub command: CommandArgs,
}
