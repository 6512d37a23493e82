//! `agentd state`, `agentd approvals`, `agentd approve` and `agentd deny`.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum StateCommand {
    /// Examine every page, index and row of the store
    ///
    /// Exit code 0: the store is sound. Exit code 1: the store is damaged.
    Check {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ApprovalsArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Option<ApprovalsCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ApprovalsCommand {
    /// Print an intent that waits for an approval, with the whole text
    Show {
        /// The intent, or at least the first four digits of its identifier, as `agentd approvals` prints it
        #[arg(value_name = "ID")]
        id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DecideArgs {
    /// The intent, or at least the first four digits of its identifier, as `agentd approvals` prints it
    #[arg(value_name = "ID")]
    pub id: String,
}
