//! What microVMs are started from.

use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum VmCommand {
    /// Make a kernel and a root file system for the backend firecracker
    Build(VmBuildArgs),
    /// Say where Firecracker's programs come from, and install them from a file whose digest is known
    FetchFirecracker {
        /// A program of Firecracker's, or the archive of a release
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
    /// An image (see `agentd image`), or a directory, an OCI layout or an archive
    #[arg(long, value_name = "REF|DIR")]
    pub image: String,
    /// A Debian kernel package, a bzImage or an ELF kernel; the newest installed one when absent
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Where to put them, instead of the place where the backend looks
    #[arg(short, value_name = "DIR")]
    pub output: Option<PathBuf>,
}
