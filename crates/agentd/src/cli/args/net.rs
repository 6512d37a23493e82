//! `agentd net`.

use agentd_egress::grant::{Destination, NetGrants};
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum NetCommand {
    /// Say whether grants allow a destination; nothing is connected to
    Check(CheckArgs),
    /// List the presets and what they grant
    Presets {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Exit code 0: allowed. Exit code 1: denied.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The destination: HOST[:PORT][/METHOD:PATH]; a name without a port means port 443
    #[arg(value_name = "DESTINATION")]
    pub destination: Destination,
    /// Grants, separated by commas: HOST[:PORT][/PROTOCOL][/METHOD:PATH]
    #[arg(long, value_name = "GRANTS")]
    pub allow: Option<NetGrants>,
    /// A file of grants
    #[arg(long, value_name = "FILE")]
    pub grants: Option<PathBuf>,
    /// The grants of a preset (repeatable)
    #[arg(long, value_name = "NAME")]
    pub preset: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
