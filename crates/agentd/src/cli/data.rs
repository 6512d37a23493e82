//! Locations of agentd's persistent data.

use super::failure::Failure;
use std::path::PathBuf;

/// Returns the data folder.
///
/// # Errors
/// If neither the environment nor a home directory names a folder.
pub(crate) fn folder() -> Result<PathBuf, Failure> {
    let folder = agentd_isolation::data_directory();
    Ok(folder.ok_or("find the data directory: no home directory is known — set AGENTD_DATA_DIR")?)
}

/// Returns the folder of the named sandboxes.
///
/// # Errors
/// As for [`folder`].
pub(crate) fn sandboxes() -> Result<PathBuf, Failure> {
    Ok(folder()?.join("sandboxes"))
}
