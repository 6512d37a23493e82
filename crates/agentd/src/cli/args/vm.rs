//! `agentd vm`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum VmCommand {
    /// Build the kernel and the root file system for the firecracker backend
    Build(VmBuildArgs),
    /// Print where to download Firecracker, or install its programs from a file whose digest agentd knows
    InstallFirecracker {
        /// A Firecracker program, or the archive of a release
        #[arg(long, value_name = "FILE")]
        from: Vec<PathBuf>,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentd vm build --image debian:12
  agentd vm build --image ./rootfs --kernel linux-image-6.1.0-1-cloud-amd64.deb")]
pub(crate) struct VmBuildArgs {
    /// An image (see `agentd image`), a directory, an OCI layout or an archive
    #[arg(long, value_name = "REF|DIR")]
    pub image: String,
    /// A Debian kernel package, a bzImage or an ELF kernel [default: the newest installed kernel]
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Write the files into this directory, instead of the directory that the backend uses
    #[arg(short, value_name = "DIR")]
    pub output: Option<PathBuf>,
}
