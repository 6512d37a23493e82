//! What is kept of each volume for the time when it is full: a sandbox whose payload has used up everything must still be startable, so that it
//! can be looked at and freed, and must be able to go back to a snapshot. Both make some directories.
//!
//! The reserve is some empty directories, each an inode and a block. It is given up while nothing runs in the sandbox, and made anew before
//! anything does.

use crate::{
    error::{Doing as _, StateError},
    layer::{Home, remove},
    record::exists,
};
use agentd_disk::{Lock, make_folder};
use std::{fs, path::PathBuf};

/// How many directories: overlayfs makes fewer for a mount, most of them for a moment, and a layer is three.
const DIRECTORIES: u64 = 16;

impl Home {
    fn reserve(&self) -> PathBuf {
        self.layers.with_file_name("reserve")
    }

    /// Gives up the reserve where there is not as much room without it.
    pub(crate) fn give_up_reserve(&self) -> Result<(), StateError> {
        let free = rustix::fs::statvfs(&self.layers).doing("look at the file system of", &self.layers)?;
        if free.f_bavail < 4 * DIRECTORIES || free.f_favail < 4 * DIRECTORIES {
            remove(&self.reserve())?;
        }
        Ok(())
    }

    /// Sees to it that there is one. There may be no room for it: then there is none, and it comes with room.
    pub(crate) fn keep_reserve(&self, _lock: &Lock) -> Result<(), StateError> {
        if exists(&self.reserve())? {
            return Ok(());
        }
        let draft = self.layers.with_file_name("draft");
        // Of one who was killed over it.
        remove(&draft)?;
        let made = || {
            make_folder(&draft)?;
            (0..DIRECTORIES).try_for_each(|number| make_folder(&draft.join(number.to_string())))?;
            fs::rename(&draft, self.reserve()).doing("rename to", self.reserve())
        };
        let made = made();
        if made.is_err() {
            // The first error is the one to tell.
            remove(&draft).ok();
        }
        made
    }
}
