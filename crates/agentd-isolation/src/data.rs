//! Where agentd keeps what lasts: images, named sandboxes, and what virtual machines are started from.

use std::path::{Path, PathBuf};

/// Says where, instead of the places below.
const VARIABLE: &str = "AGENTD_DATA_DIR";

/// The directory that `AGENTD_DATA_DIR` names; else root's is one for the machine, and an ordinary user's is below their data directory
/// (XDG Base Directory Specification). `None` where there is no place for one.
pub fn data_directory() -> Option<PathBuf> {
    let named = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(folder) = named(VARIABLE) {
        return Some(folder);
    }
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/agentd"));
    }
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share"));
    Some(named("XDG_DATA_HOME").or_else(home)?.join("agentd"))
}
