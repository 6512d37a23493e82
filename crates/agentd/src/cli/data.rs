//! Where agentd keeps what lasts.

use super::Failure;
use std::path::PathBuf;

/// The folder; an error where there is no place for one.
pub(crate) fn folder() -> Result<PathBuf, Failure> {
    let folder = agentd_isolation::data_directory();
    Ok(folder.ok_or("there is no place for images and sandboxes: set HOME, XDG_DATA_HOME or AGENTD_DATA_DIR")?)
}
