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
    /// Download nothing (by default, missing packages are downloaded from npm, PyPI and Debian); use a copy of the directory
    /// `downloads` from a set-up on a host with a network
    #[arg(long, value_name = "DIR")]
    pub offline: Option<PathBuf>,
    /// Root file system of the guest, instead of Debian
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}
