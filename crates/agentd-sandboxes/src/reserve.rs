//! Disk space reserved in each volume for the time when the volume is full. A sandbox whose payload has used up its disk must
//! still start, so that its files can be inspected and removed. It must also be able to return to a snapshot. Both operations
//! create some directories.
//!
//! The reserve consists of empty directories, each an inode and a block. Before a sandbox starts or a snapshot is
//! restored, the reserve is removed if the volume has too little free space. It is created again before a command runs.

use crate::{
    error::StoreError,
    layer::{VolumeDir, remove},
    record::exists,
};
use agentd_disk::{FileContext as _, Lock, make_folder};
use agentd_log::LogFailure as _;
use std::{fs, path::PathBuf};

/// Number of directories in the reserve. Overlayfs creates fewer for a mount, most of them temporarily, and a layer needs three.
const DIRECTORIES: u64 = 16;

impl VolumeDir {
    fn reserve(&self) -> PathBuf {
        self.layers.with_file_name("reserve")
    }

    /// Removes the reserve if the volume has less free space than four times the reserve.
    pub(crate) fn give_up_reserve(&self) -> Result<(), StoreError> {
        let free = rustix::fs::statvfs(&self.layers).during("statvfs", &self.layers)?;
        if free.f_bavail < 4 * DIRECTORIES || free.f_favail < 4 * DIRECTORIES {
            remove(&self.reserve())?;
        }
        Ok(())
    }

    /// Creates the reserve if it does not exist. If the volume is full, this fails, and a later call tries again.
    pub(crate) fn keep_reserve(&self, _lock: &Lock) -> Result<(), StoreError> {
        if exists(&self.reserve())? {
            return Ok(());
        }
        let draft = self.layers.with_file_name("draft");
        // The leftover of a process that was killed here.
        remove(&draft)?;
        let made = || {
            make_folder(&draft)?;
            (0..DIRECTORIES).try_for_each(|number| make_folder(&draft.join(number.to_string())))?;
            Ok(fs::rename(&draft, self.reserve()).during("rename to", self.reserve())?)
        };
        let made = made();
        if made.is_err() {
            // The first error is returned; an error of this removal is only logged.
            remove(&draft).or_warn("remove draft of a reserve", &draft);
        }
        made
    }
}
