//! A snapshot of a machine on disk.

use super::{disk, files};
use agentd_core::IsolationError;
use agentd_isolation::store::{Fresh, Store};
use agentd_log::LogFailure as _;
use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

/// The maximum size, in bytes, of the disk of a snapshot that a spare loads in advance. Loading in advance copies the disk before
/// a restore is requested. The limit also applies where the file system shares blocks and a copy would be cheap.
const MAX_PRELOADED_DISK: u64 = 256 << 20;

/// The unit of `st_blocks`, in bytes (`stat(2)`).
const BLOCK: u64 = 512;

/// Memory, device state and disk at one moment. Removed when dropped. If this process dies first, the start of the next machine
/// removes it.
pub(super) struct Snapshot {
    fresh: Fresh,
    can_preload: bool,
}

impl Snapshot {
    /// Creates a snapshot from Firecracker's files in `written` and a copy of the paused machine's `disk`.
    pub(super) fn take(store: &Store, written: &Path, disk: &Path) -> Result<Self, IsolationError> {
        let mut snapshot = Self { fresh: store.make()?, can_preload: false };
        keep(written, disk, snapshot.folder())?;
        let kept = fs::metadata(snapshot.folder().join(files::DISK));
        snapshot.can_preload = kept.is_ok_and(|disk| disk.blocks().saturating_mul(BLOCK) <= MAX_PRELOADED_DISK);
        Ok(snapshot)
    }

    /// Returns whether the disk is small enough to restore a machine before a restore is requested.
    pub(super) fn can_preload(&self) -> bool {
        self.can_preload
    }

    /// Returns the folder of the snapshot.
    pub(super) fn folder(&self) -> &Path {
        &self.fresh.folder
    }
}

/// Moves Firecracker's files from `written` into `folder`, and copies the paused machine's `disk` there.
pub(super) fn keep(written: &Path, disk: &Path, folder: &Path) -> Result<(), IsolationError> {
    let failed = |source: io::Error| IsolationError::Io { context: format!("save a snapshot in {}", folder.display()), source };
    for name in [files::STATE, files::MEMORY] {
        let kept = folder.join(name);
        fs::rename(written.join(name), &kept).map_err(failed)?;
        files::readable(&kept).map_err(failed)?;
    }
    // Firecracker's user needs access to this directory, which is mounted in its root. On the host, the private parent directory
    // still keeps other users out.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    disk::copy(disk, &folder.join(files::DISK))
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        // If the removal fails, the start of the next machine removes the folder.
        fs::remove_dir_all(&self.fresh.folder).or_warn("remove snapshot", &self.fresh.folder);
    }
}
