//! A machine's state on disk.

use super::{disk, vm};
use crate::store::{Fresh, Store};
use agentd_core::IsolationError;
use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

/// Memory, devices and disk of one moment. Gone when dropped; when this process dies, at the next start of a machine.
pub(super) struct Snapshot(Fresh);

impl Snapshot {
    /// Takes over what Firecracker has written to `written`, and copies the `disk` of the paused machine.
    pub(super) fn take(store: &Store, written: &Path, disk: &Path) -> Result<Self, IsolationError> {
        let snapshot = Self(store.make()?);
        keep(written, disk, &snapshot.0.folder)?;
        Ok(snapshot)
    }

    /// Where it is.
    pub(super) fn folder(&self) -> &Path {
        &self.0.folder
    }
}

/// Moves what Firecracker has written to `written` into `folder`, and copies the `disk` of the paused machine there.
pub(super) fn keep(written: &Path, disk: &Path, folder: &Path) -> Result<(), IsolationError> {
    let failed = |source: io::Error| IsolationError::Io { context: format!("keep a snapshot in {}", folder.display()), source };
    for name in [vm::STATE, vm::MEMORY] {
        let kept = folder.join(name);
        fs::rename(written.join(name), &kept).map_err(failed)?;
        vm::readable(&kept).map_err(failed)?;
    }
    // The directory itself is shown to Firecracker's user. The one that it is in is not: on the host nobody gets here.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    disk::copy(disk, &folder.join(vm::DISK))
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        // What cannot be removed now is removed when the next machine is made.
        fs::remove_dir_all(&self.0.folder).ok();
    }
}
