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
pub struct Lock(#[expect(dead_code, reason = "owned only for its destructor: closing the file releases the lock")] File);

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
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error).during("try to lock", path),
        }
    }
}

fn open(path: &Path) -> Result<File, DiskError> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).during("open", path)
}
