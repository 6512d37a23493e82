//! Copies files into and out of sandboxes. The content travels as a descriptor of an unnamed file next to the sandbox's record.
//! The file is on disk, so that a payload cannot exhaust the daemon's memory.

use crate::{error::DaemonError, protocol::MAX_FILE, serve::Server};
use agentd_sandboxes::Name;
use std::{
    fs::File,
    io::{self, Read, Seek},
    os::fd::OwnedFd,
    path::Path,
};

impl Server {
    pub(crate) async fn read(&self, name: &Name, path: &Path) -> Result<OwnedFd, DaemonError> {
        let (sandbox, _used) = self.used_by(name).await?;
        let kept = DaemonError::io(format!("read {}: create a temporary file for its content", path.display()));
        let mut content = self.unnamed(name).await.map_err(&kept)?;
        sandbox.read_file_to(path, MAX_FILE, content.try_clone().map_err(&kept)?.into()).await?;
        content.rewind().map_err(&kept)?;
        Ok(content.into())
    }

    pub(crate) async fn write(&self, name: &Name, path: &Path, from: OwnedFd) -> Result<(), DaemonError> {
        self.exists(name).await?;
        let failed = DaemonError::io(format!("write {}: read the new content", path.display()));
        let mut content = self.unnamed(name).await.map_err(&failed)?;
        // Read in a separate thread, because the client may have opened a pipe that has no writer.
        let read = tokio::task::spawn_blocking(move || {
            let length = io::copy(&mut File::from(from).take(MAX_FILE + 1), &mut content)?;
            content.rewind().map(|()| (length, content))
        });
        let (length, content) = read.await.map_err(|error| failed(error.into()))?.map_err(&failed)?;
        if length > MAX_FILE {
            return Err(DaemonError::Refused(format!(
                "write {}: file too large: the maximum is {MAX_FILE} bytes — use a smaller file",
                path.display()
            )));
        }
        let (sandbox, _used) = self.used_by(name).await?;
        sandbox.write_file_from(path, content.into()).await?;
        Ok(())
    }

    /// Creates an unnamed temporary file in the sandbox's folder.
    async fn unnamed(&self, name: &Name) -> io::Result<File> {
        let log = self.state.log_directory(name);
        let create = move || tempfile::tempfile_in(log.parent().unwrap_or(&log));
        tokio::task::spawn_blocking(create).await.map_err(io::Error::other)?
    }
}
