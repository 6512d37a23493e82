//! Where agentd keeps what lasts: images and named sandboxes.

use super::Failure;
use std::path::{Path, PathBuf};

/// Says where, instead of the places below.
const VARIABLE: &str = "AGENTD_DATA_DIR";

/// Root's is one for the machine, an ordinary user's is below their data directory (XDG Base Directory Specification).
pub(crate) fn folder() -> Result<PathBuf, Failure> {
    let named = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(folder) = named(VARIABLE) {
        return Ok(folder);
    }
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/agentd"));
    }
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share"));
    let data = named("XDG_DATA_HOME").or_else(home);
    Ok(data.ok_or("there is no place for images and sandboxes: set HOME, XDG_DATA_HOME or AGENTD_DATA_DIR")?.join("agentd"))
}
