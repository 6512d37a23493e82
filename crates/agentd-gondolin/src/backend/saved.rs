//! The saved disk of a machine, on the host. A guest controls its content, so the host only copies the file and never parses it.

use agentd_core::IsolationError;
use agentd_isolation::{
    blocking::blocking,
    store::{Fresh, Store},
};
use agentd_log::LogFailure as _;
use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Returns the folder of the saved disks of this user.
pub(super) fn store(work_root: &Path) -> Store {
    let uid = rustix::process::geteuid().as_raw();
    Store::new(&work_root.join(format!("agentd-gondolin-{uid}")), |dead| std::fs::remove_dir_all(dead))
}

/// A saved disk. Removed when dropped. If this process dies first, the start of the next machine removes it.
pub(super) struct Saved {
    store: Store,
    fresh: Fresh,
}

impl Saved {
    /// Creates a place for a disk, without a file yet. May block on disk I/O.
    pub(super) fn make(store: &Store) -> Result<Self, IsolationError> {
        Ok(Self { store: store.clone(), fresh: store.make()? })
    }

    fn file(&self) -> PathBuf {
        self.fresh.folder.join("disk.qcow2")
    }

    fn failed(&self) -> impl Fn(io::Error) -> IsolationError {
        let context = format!("open the snapshot file in {}", self.fresh.folder.display());
        move |source| IsolationError::Io { context: context.clone(), source }
    }

    /// Creates the file for writing. May be called once.
    pub(super) fn create(&self) -> Result<OwnedFd, IsolationError> {
        let made = File::options().write(true).create_new(true).mode(0o600).open(self.file());
        made.map(OwnedFd::from).map_err(self.failed())
    }

    /// Opens the file for reading.
    pub(super) fn open(&self) -> Result<OwnedFd, IsolationError> {
        File::open(self.file()).map(OwnedFd::from).map_err(self.failed())
    }
}

/// Drops saved disks, which removes their files, on a thread for blocking operations.
pub(super) async fn remove(saved: impl Send + 'static) -> Result<(), IsolationError> {
    blocking(move || {
        drop(saved);
        Ok(())
    })
    .await
}

impl Drop for Saved {
    fn drop(&mut self) {
        // If the removal fails, the start of the next machine removes the folder.
        self.store.remove(&self.fresh.folder).or_warn("remove saved machine", &self.fresh.folder);
    }
}
