//! The lock of a store. Each holder opens the lock file separately, so the lock excludes threads as well as processes (`man 2
//! flock`). The kernel releases the lock when its holder dies.

use crate::error::{DiskError, FileContext as _};
use std::{
    fs::{File, OpenOptions, TryLockError},
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

    /// Takes the lock; returns `None` if it is held. Such a holder may keep the lock as long as it runs.
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
}

fn open(path: &Path) -> Result<File, DiskError> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).during("open", path)
}
