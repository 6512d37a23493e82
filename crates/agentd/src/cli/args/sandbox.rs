//! Named sandboxes.

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
    /// Make one: a machine of its own, of an image or of the host's programs
    Create(Box<CreateArgs>),
    /// Run a command in one
    Exec(Box<ExecArgs>),
    /// List them
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print all that is known of one, as JSON
    Inspect {
        /// Its name
        name: Name,
    },
    /// Print what its detached commands printed
    Logs {
        /// Its name
        name: Name,
        /// Go on until it is stopped
        #[arg(short, long)]
        follow: bool,
    },
    /// Copy a file into one or out of one
    #[command(after_help = "One of the two is NAME:PATH, with an absolute path in the sandbox; `-` is standard input or output.")]
    Cp {
        /// What is copied
        from: String,
        /// Where to
        to: String,
    },
    /// Stop all its processes
    Pause {
        /// Its name
        name: Name,
    },
    /// Let them go on
    Resume {
        /// Its name
        name: Name,
    },
    /// Keep its state under a name
    Snapshot {
        /// Its name
        name: Name,
        /// The state's
        snapshot: Name,
        /// Forget that state instead
        #[arg(long)]
        forget: bool,
    },
    /// Make others of the same state
    Fork {
        /// Its name
        name: Name,
        /// Of this state that was kept, rather than of what it is now
        #[arg(long, value_name = "SNAPSHOT")]
        of: Option<Name>,
        /// Theirs
        #[arg(required = true)]
        new: Vec<Name>,
    },
    /// Go back to a state; what runs is ended
    Restore {
        /// Its name
        name: Name,
        /// The state's
        snapshot: Name,
    },
    /// List what was changed in one: A added, C changed, D removed
    Diff {
        /// Its name
        name: Name,
        /// Since this state, rather than since it was made
        #[arg(long, value_name = "SNAPSHOT")]
        since: Option<Name>,
    },
    /// End and remove them
    Rm {
        /// Their names
        #[arg(required = true)]
        names: Vec<Name>,
    },
    /// Check that what is kept on disk is whole
    Fsck,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentd sandbox create dev --image debian:12 --memory 2G --disk 10G
  agentd sandbox exec -it dev -- bash
  agentd sandbox snapshot dev clean
  agentd sandbox fork dev try-1 try-2 try-3")]
pub(crate) struct CreateArgs {
    /// Its name: lower-case letters, digits, '.', '_' and '-'
    pub name: Name,
    #[command(flatten)]
    pub boundary: BoundaryArgs,
    /// Let it keep at most so much, snapshots included; a fork may keep as much of its own (as root)
    #[arg(long, value_name = "SIZE")]
    pub disk: Option<Bytes>,
    /// Remove it when nobody has used it for so long
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub idle_ttl: Option<Duration>,
    /// Remove it so long after it was made
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub ttl: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// The sandbox
    pub name: Name,
    /// Leave it running; its output goes to the sandbox's log
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    pub detach: bool,
    #[command(flatten)]
    pub command: CommandArgs,
}
