//! `agentd gondolin`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum GondolinCommand {
    /// Install Gondolin and build the guest that its machines boot
    Setup(SetupArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentd gondolin setup
  agentd gondolin setup --root ./rootfs
  agentd gondolin setup --offline /media/stick/downloads")]
pub(crate) struct SetupArgs {
    /// Download missing packages from npm, PyPI and Debian; this is the default
    #[arg(long, conflicts_with = "offline")]
    pub from_npm: bool,
    /// Download nothing; use a copy of the directory `downloads` from a set-up on a host with a network
    #[arg(long, value_name = "DIR")]
    pub offline: Option<PathBuf>,
    /// Root file system of the guest, instead of Debian
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}
