//! Freezing file systems (`fsfreeze(8)`). While a file system is frozen, all earlier writes are on disk and new writes block
//! until the thaw. The on-disk state is then consistent and can be copied from outside.

use crate::{ErrnoContext, syscall};
use agentd_core::{Control, ControlError};
use agentd_log::LogFailure as _;
use rustix::fs::{Mode, OFlags};
use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

/// A frozen file system, thawed when dropped.
///
/// The process that holds this value must not write to the file system, and must not close the last descriptor of an unlinked
/// file on it, because the process would block forever.
#[derive(Debug)]
pub struct FrozenFileSystem {
    directory: OwnedFd,
    path: PathBuf,
    thawed: bool,
}

impl FrozenFileSystem {
    /// Freezes the file system that contains the directory `path`. Blocks until all dirty data is written. Needs `CAP_SYS_ADMIN`
    /// in the user namespace that the file system was mounted in.
    ///
    /// # Errors
    /// `EBUSY` if the file system is already frozen, `EOPNOTSUPP` if it is not on a disk, or the errno of opening `path`.
    pub fn freeze(path: &Path) -> Result<Self, ControlError> {
        let directory = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .during(Control::Volume, || format!("open {}", path.display()))?;
        // Flushes most of the data while writers may still run, so that the freeze itself blocks them only briefly.
        rustix::fs::syncfs(&directory).during(Control::Volume, || format!("flush the file system of {}", path.display()))?;
        syscall::files::freeze(directory.as_fd())
            .during(Control::Volume, || format!("freeze the file system of {}", path.display()))?;
        Ok(Self { directory, path: path.to_path_buf(), thawed: false })
    }

    /// Thaws the file system.
    ///
    /// # Errors
    /// `EINVAL` if another process has already thawed the file system.
    pub fn thaw(mut self) -> Result<(), ControlError> {
        self.thawed = true;
        syscall::files::thaw(self.directory.as_fd())
            .during(Control::Volume, || format!("thaw the file system of {}", self.path.display()))
    }
}

impl Drop for FrozenFileSystem {
    fn drop(&mut self) {
        if !self.thawed {
            // Fails with EINVAL if another process has already thawed the file system.
            syscall::files::thaw(self.directory.as_fd()).or_warn("thaw file system", &self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freeze_of_file_system_without_disk_fails() {
        let error = FrozenFileSystem::freeze(Path::new("/proc")).unwrap_err();
        assert!(matches!(error.errno, Some(libc::EOPNOTSUPP | libc::EPERM)), "{error}");
        assert!(error.to_string().contains("the file system of /proc"), "{error}");
        assert_eq!(FrozenFileSystem::freeze(Path::new("/no/such")).unwrap_err().errno, Some(libc::ENOENT));
    }
}
