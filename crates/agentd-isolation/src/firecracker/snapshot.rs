//! A machine's state on disk.

use super::{disk, vm};
use crate::store::{Fresh, Store};
use agentd_core::IsolationError;
use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

/// The most that the disk of one may take for being copied before it is known whether that is needed, bytes. Where the file system can
/// share blocks a copy takes nothing, but none is made of a larger one either.
const MOST_AHEAD: u64 = 256 << 20;

/// Bytes that `st_blocks` counts (`stat(2)`).
const BLOCK: u64 = 512;

/// Memory, devices and disk of one moment. Gone when dropped; when this process dies, at the next start of a machine.
pub(super) struct Snapshot {
    fresh: Fresh,
    suits_ahead: bool,
}

impl Snapshot {
    /// Takes over what Firecracker has written to `written`, and copies the `disk` of the paused machine.
    pub(super) fn take(store: &Store, written: &Path, disk: &Path) -> Result<Self, IsolationError> {
        let mut snapshot = Self { fresh: store.make()?, suits_ahead: false };
        keep(written, disk, snapshot.folder())?;
        let kept = fs::metadata(snapshot.folder().join(vm::DISK));
        snapshot.suits_ahead = kept.is_ok_and(|disk| disk.blocks().saturating_mul(BLOCK) <= MOST_AHEAD);
        Ok(snapshot)
    }

    /// Whether a machine may go back to it before that is asked for.
    pub(super) fn suits_ahead(&self) -> bool {
        self.suits_ahead
    }

    /// Where it is.
    pub(super) fn folder(&self) -> &Path {
        &self.fresh.folder
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
        fs::remove_dir_all(&self.fresh.folder).ok();
    }
}
