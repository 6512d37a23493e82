//! Sends the files to keep to the host.

use super::ports::Ports;
use crate::{
    error::{Calling, LabError},
    message::FILES,
};
use std::{path::PathBuf, process::Command};

pub fn send(paths: &[PathBuf], ports: &Ports) -> Result<(), LabError> {
    if paths.is_empty() {
        return Ok(());
    }
    let mut tar = Command::new("/bin/tar");
    // tar warns about a leading slash, so remove it.
    let names = paths.iter().map(|path| path.strip_prefix("/").unwrap_or(path));
    tar.args(["--create", "--directory", "/"]).args(names).stdout(ports.open(FILES)?);
    let status = tar.status().calling(|| "start tar".to_owned())?;
    if status.success() { Ok(()) } else { Err(LabError::Tool { command: format!("{tar:?}"), detail: status.to_string() }) }
}
