//! The real Gondolin.

use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum GondolinCommand {
    /// Install it, and build what its machines are started from
    Setup(SetupArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentd gondolin setup
  agentd gondolin setup --root ./rootfs
  agentd gondolin setup --offline /media/stick/downloads")]
pub(crate) struct SetupArgs {
    /// Fetch what is missing from the registries of npm, PyPI and Debian, as is usual
    #[arg(long, conflicts_with = "offline")]
    pub from_npm: bool,
    /// Fetch nothing: a copy of the directory `downloads` of a set-up made where there is a network
    #[arg(long, value_name = "DIR")]
    pub offline: Option<PathBuf>,
    /// The file tree of the guest, instead of a Debian
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}
