//! `agentd net`.

use agentd_egress::grant::{Destination, GrantFile, MAX_FILE, NetGrants};
use clap::{Args, Subcommand};
use std::{
    fmt::Display,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

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

/// Reads a file of grants.
///
/// # Errors
/// A message that names the file, if it cannot be read or is not a file of grants.
pub(crate) fn read_grants(path: &Path) -> Result<GrantFile, String> {
    let failed = |error: &dyn Display| format!("read network grants: {}: {error}", path.display());
    let mut text = String::new();
    // One byte more than the limit shows that the file is too large, also if it is a device without an end.
    let limit = u64::try_from(MAX_FILE).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text)).map_err(|error| failed(&error))?;
    text.parse().map_err(|error| failed(&error))
}
