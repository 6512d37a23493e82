//! Files, copied into sandboxes and out of them. Their content travels as a descriptor.

use crate::{error::KeeperError, protocol::MAX_FILE, serve::Keeper};
use agentd_sandboxes::Name;
use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    path::Path,
};

impl Keeper {
    pub(crate) async fn read(&self, name: &Name, path: &Path) -> Result<OwnedFd, KeeperError> {
        let (sandbox, _used) = self.used_by(name).await?;
        let content = sandbox.read_file(path, MAX_FILE).await?;
        let kept = |source: std::io::Error| KeeperError::Refused(format!("keep {} for the copy: {source}", path.display()));
        let memory = rustix::fs::memfd_create("copy", rustix::fs::MemfdFlags::CLOEXEC).map_err(|e| kept(e.into()))?;
        let mut file = File::from(memory);
        file.write_all(&content).map_err(kept)?;
        std::io::Seek::rewind(&mut file).map_err(kept)?;
        Ok(file.into())
    }

    pub(crate) async fn write(&self, name: &Name, path: &Path, from: OwnedFd) -> Result<(), KeeperError> {
        let failed = |why: String| KeeperError::Refused(format!("read what is to be copied: {why}"));
        // Beside everything else: what a client opened may be a pipe that nobody writes to.
        let read = tokio::task::spawn_blocking(move || {
            let mut content = Vec::new();
            File::from(from).take(MAX_FILE + 1).read_to_end(&mut content).map(|_| content)
        });
        let content = read.await.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?;
        if content.len() as u64 > MAX_FILE {
            return Err(KeeperError::Refused(format!("a file to be copied has at most {MAX_FILE} bytes")));
        }
        let (sandbox, _used) = self.used_by(name).await?;
        Ok(sandbox.write_file(path, &content).await?)
    }
}
