//! `agentd net`.

use super::super::failure;
use agentd_egress::grant::{Destination, GrantFile, MAX_FILE, NetGrants};
use agentd_isolation::grants;
use agentd_sandboxes::Name;
use clap::{Args, Subcommand};
use std::{
    fmt::Display,
    fs::{File, OpenOptions},
    io::{self, Read},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

#[derive(Debug, Subcommand)]
pub(crate) enum NetCommand {
    /// Say whether network grants allow a destination, without connecting to anything
    Check(CheckArgs),
    /// Print the connections that named sandboxes tried to open, and those that are still open
    Log {
        /// The name of the sandbox [default: all sandboxes]
        name: Option<Name>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the presets and their network grants
    Presets {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Exit code 0: allowed. Exit code 1: refused.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The destination: HOST[:PORT][/METHOD:PATH], or HOST:PORT/udp; a name without a port means port 443
    #[arg(value_name = "DESTINATION")]
    pub destination: Destination,
    /// Network grants, separated by commas: HOST[:PORT][/PROTOCOL][/approve][/METHOD:PATH]
    #[arg(long, value_name = "GRANTS")]
    pub allow: Option<NetGrants>,
    /// A file of network grants
    #[arg(long, value_name = "FILE")]
    pub grants: Option<PathBuf>,
    /// The network grants of a preset (repeatable)
    #[arg(long, value_name = "NAME")]
    pub preset: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A file of network grants that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadGrants {
    /// The content.
    pub file: GrantFile,
    /// The given path, and the path of the opened file, each without links in its directories.
    pub places: Vec<PathBuf>,
}

/// Reads a file of network grants, without waiting for a FIFO or a device.
///
/// # Errors
/// A message that names the file, if it cannot be read or is not a file of network grants.
pub(crate) fn read_grants(path: &Path) -> Result<ReadGrants, String> {
    let failed = |error: &dyn Display| format!("read network grants: {}: {error}", path.display());
    let unreadable = |error: io::Error| failure::of_file("read network grants", path, &error);
    let (file, places) = open_named(path).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(failed(&"not a regular file — name a file of network grants"));
    }
    let mut text = String::new();
    // One byte more than the limit shows that the file is too large.
    let limit = u64::try_from(MAX_FILE).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_string(&mut text).map_err(unreadable)?;
    Ok(ReadGrants { file: text.parse().map_err(|error| failed(&error))?, places })
}

/// Opens a file, without waiting for a FIFO or a device. Returns the places through which the path leads, and the path of the
/// file that was opened. An object that is not a regular file has no places.
///
/// # Errors
/// The errno of opening the file, or of following its path.
pub(crate) fn open_named(path: &Path) -> io::Result<(File, Vec<PathBuf>)> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let mut places = Vec::new();
    if file.metadata()?.is_file() {
        places = grants::places(path)?;
        places.push(std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?);
    }
    Ok((file, places))
}
