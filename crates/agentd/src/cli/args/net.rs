//! `agentd net`.

use agentd_egress::grant::{Destination, GrantFile, MAX_FILE, NetGrants};
use agentd_sandboxes::Name;
use clap::{Args, Subcommand};
use std::{
    fmt::Display,
    fs::OpenOptions,
    io::{self, Read},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

#[derive(Debug, Subcommand)]
pub(crate) enum NetCommand {
    /// Say whether network grants allow a destination, without connecting to anything
    Check(CheckArgs),
    /// Print the connections that named sandboxes tried to open; connections that are still open are not listed
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
    /// The destination: HOST[:PORT][/METHOD:PATH]; a name without a port means port 443
    #[arg(value_name = "DESTINATION")]
    pub destination: Destination,
    /// Network grants, separated by commas: HOST[:PORT][/PROTOCOL][/METHOD:PATH]
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
    pub places: [PathBuf; 2],
}

/// Reads a file of network grants, without waiting for a FIFO or a device.
///
/// # Errors
/// A message that names the file, if it cannot be read or is not a file of network grants.
pub(crate) fn read_grants(path: &Path) -> Result<ReadGrants, String> {
    let failed = |error: &dyn Display| format!("read network grants: {}: {error}", path.display());
    let open = || {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
        let opened = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let named = above.canonicalize()?.join(path.file_name().unwrap_or_default());
        Ok::<_, io::Error>((file, [named, opened]))
    };
    let (file, places) = open().map_err(|error| failed(&error))?;
    if !file.metadata().map_err(|error| failed(&error))?.is_file() {
        return Err(failed(&"not a regular file — name a file of network grants"));
    }
    let mut text = String::new();
    // One byte more than the limit shows that the file is too large.
    let limit = u64::try_from(MAX_FILE).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_string(&mut text).map_err(|error| failed(&error))?;
    Ok(ReadGrants { file: text.parse().map_err(|error| failed(&error))?, places })
}
