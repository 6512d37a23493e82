//! The lock of a store. Each holder opens the lock file separately, so the lock excludes threads as well as processes (`man 2
//! flock`). The kernel releases the lock when its holder dies.

use crate::error::{DiskError, FileContext as _};
use std::{
    fs::{File, OpenOptions},
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
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).during("open", path)?;
        file.lock().during("lock", path)?;
        Ok(Self(file))
    }
}
