//! The directory for agentd's persistent data: images, named sandboxes, and the files that virtual machines are started from.

use crate::own_state;
use std::path::PathBuf;

/// The environment variable that overrides the default directory.
const VARIABLE: &str = "AGENTD_DATA_DIR";

/// Returns the data directory, or `None` if none of these is known. The first that is known is used:
///
/// - the directory that `AGENTD_DATA_DIR` names, if that is an absolute path;
/// - for root, `/var/lib/agentd`;
/// - for an ordinary user, `.local/share/agentd` below the home directory of `/etc/passwd`, or below `HOME` if that file has
///   none.
///
/// `XDG_DATA_HOME` is not used: continuous integration sets it to a directory in the workspace. A payload could create the folder
/// there, and a later run would trust it.
pub fn data_directory() -> Option<PathBuf> {
    if let Some(folder) = named_directory() {
        return Some(folder);
    }
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/agentd"));
    }
    Some(own_state::home()?.join(".local/share/agentd"))
}

/// Returns the directory that `AGENTD_DATA_DIR` names.
pub(crate) fn named_directory() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).map(PathBuf::from).filter(|path| path.is_absolute())
}
