//! File systems at rest: all that was written is on the disk, and whoever writes more waits until they go on (`fsfreeze(8)`). What is on
//! the disk is then of one moment, and can be copied from outside.

use crate::{At, syscall};
use agentd_core::{Layer, LayerError};
use rustix::fs::{Mode, OFlags};
use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

/// A file system at rest. Dropped, it goes on.
///
/// Whoever holds it must not write to it, nor close the last descriptor of a file of it that has no name any more: that would wait for ever.
#[derive(Debug)]
pub struct AtRest {
    directory: OwnedFd,
    path: PathBuf,
    thawed: bool,
}

impl AtRest {
    /// Brings the file system of a directory to rest. It takes as long as what is in memory takes to be written. Needs `CAP_SYS_ADMIN` in
    /// the user namespace that the file system was mounted in.
    ///
    /// # Errors
    /// `EBUSY` for one that rests already, `EOPNOTSUPP` for one that is on no disk.
    pub fn begin(path: &Path) -> Result<Self, LayerError> {
        let directory = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .at(Layer::Volume, || format!("open {}", path.display()))?;
        // Most of it while others may still write: they are held up for the rest only.
        rustix::fs::syncfs(&directory).at(Layer::Volume, || format!("flush the file system of {}", path.display()))?;
        syscall::freeze(directory.as_fd())
            .at(Layer::Volume, || format!("bring the file system of {} to rest", path.display()))?;
        Ok(Self { directory, path: path.to_path_buf(), thawed: false })
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// `EINVAL` when somebody else has.
    pub fn end(mut self) -> Result<(), LayerError> {
        self.thawed = true;
        syscall::thaw(self.directory.as_fd())
            .at(Layer::Volume, || format!("let the file system of {} go on", self.path.display()))
    }
}

impl Drop for AtRest {
    fn drop(&mut self) {
        if !self.thawed {
            // Somebody else may have.
            syscall::thaw(self.directory.as_fd()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_no_disk_cannot_rest() {
        let error = AtRest::begin(Path::new("/proc")).unwrap_err();
        assert!(matches!(error.errno, Some(libc::EOPNOTSUPP | libc::EPERM)), "{error}");
        assert!(error.to_string().contains("the file system of /proc"), "{error}");
        assert_eq!(AtRest::begin(Path::new("/no/such")).unwrap_err().errno, Some(libc::ENOENT));
    }
}
