//! The lock of a store. Each holder opens the lock file separately, so the lock excludes threads as well as processes (`man 2
//! flock`). The kernel releases the lock when its holder dies.

use crate::error::{DiskError, FileContext as _};
use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Proof that the store is locked. Dropping the value releases the lock.
#[derive(Debug)]
pub struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // A process that another thread starts has a copy of the descriptor until its execve(2), and a lock lasts as long as the
        // last copy. Unlocking releases the lock at once (`man 2 flock`). If it fails, closing releases the lock.
        let _ = self.0.unlock();
    }
}

impl Lock {
    /// Waits for the lock, without a timeout. Holders keep the lock for short steps only.
    ///
    /// # Errors
    /// [`DiskError`] if the lock file cannot be opened or locked.
    pub fn take(path: &Path) -> Result<Self, DiskError> {
        let file = open(path)?;
        file.lock().during("lock", path)?;
        Ok(Self(file))
    }

    /// Takes the lock; returns `None` if another holder has it. That holder may keep the lock until its process ends.
    ///
    /// # Errors
    /// As for [`Lock::take`].
    pub fn try_take(path: &Path) -> Result<Option<Self>, DiskError> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).during("lock", path),
        }
    }

    /// Returns true if another open file holds the lock. Creates no lock file, and does not keep the lock. Other calls of this
    /// function do not count as holders.
    ///
    /// # Errors
    /// [`DiskError`] if an existing lock file cannot be opened or tried.
    pub fn is_held(path: &Path) -> Result<bool, DiskError> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            opened => opened.during("open", path)?,
        };
        is_held_elsewhere(&file).during("try to lock", path)
    }
}

/// Returns true if another open file holds the lock. Afterwards, no copy of this descriptor holds the lock.
fn is_held_elsewhere(file: &File) -> io::Result<bool> {
    match file.try_lock_shared() {
        Ok(()) => file.unlock().map(|()| false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn open(path: &Path) -> Result<File, DiskError> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).during("open", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that is being started holds a copy of each descriptor, as `try_clone` makes one.
    #[test]
    fn released_lock_is_free_while_a_copy_of_its_descriptor_is_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = Lock::take(&path).unwrap();
        let copy = lock.0.try_clone().unwrap();
        assert!(Lock::is_held(&path).unwrap());
        drop(lock);
        assert!(!Lock::is_held(&path).unwrap());
        assert!(Lock::try_take(&path).unwrap().is_some());
        drop(copy);
    }

    #[test]
    fn examined_lock_is_free_while_a_copy_of_the_descriptor_is_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let examined = open(&path).unwrap();
        let copy = examined.try_clone().unwrap();
        assert!(!is_held_elsewhere(&examined).unwrap());
        drop(examined);
        assert!(Lock::try_take(&path).unwrap().is_some());
        drop(copy);
    }
}
