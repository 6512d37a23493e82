//! `agentd quota`.

use clap::Subcommand;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum QuotaCommand {
    /// Print the quotas of principals and groups, and how much of them is used
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Validate a file of quotas
    ///
    /// Exit code 0: the file is valid. Exit code 1: the quotas are refused.
    Check {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}
