//! A machine's disk as it was at one moment, on the host. It is the guest's making: on the host it is copied and never looked into.

use crate::store::{Fresh, Store};
use agentd_core::IsolationError;
use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Where those of a user are.
pub(super) fn store(work_root: &Path) -> Store {
    let uid = rustix::process::geteuid().as_raw();
    Store::new(&work_root.join(format!("agentd-gondolin-{uid}")), |dead| std::fs::remove_dir_all(dead))
}

/// Gone when dropped; when this process dies, at the next start of a machine.
pub(super) struct Saved {
    store: Store,
    fresh: Fresh,
}

impl Saved {
    /// One that nothing has been written to. Waits for the disk.
    pub(super) fn make(store: &Store) -> Result<Self, IsolationError> {
        Ok(Self { store: store.clone(), fresh: store.make()? })
    }

    fn file(&self) -> PathBuf {
        self.fresh.folder.join("disk.qcow2")
    }

    fn failed(&self) -> impl Fn(io::Error) -> IsolationError {
        let context = format!("keep a snapshot in {}", self.fresh.folder.display());
        move |source| IsolationError::Io { context: context.clone(), source }
    }

    /// To write it, once.
    pub(super) fn create(&self) -> Result<OwnedFd, IsolationError> {
        let made = File::options().write(true).create_new(true).mode(0o600).open(self.file());
        made.map(OwnedFd::from).map_err(self.failed())
    }

    /// To read it.
    pub(super) fn open(&self) -> Result<OwnedFd, IsolationError> {
        File::open(self.file()).map(OwnedFd::from).map_err(self.failed())
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        // What cannot be removed now is removed when the next machine is made.
        self.store.leave(&self.fresh.folder).ok();
    }
}
