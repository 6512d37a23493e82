//! The lock of a store. Each holder opens the file anew, so that it keeps threads apart as well as processes (`man 2 flock`); the
//! kernel gives it up when its holder dies.

use crate::error::{DiskError, Doing as _};
use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Proof that the store is locked, until it is dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not used: closing it unlocks")] File);

impl Lock {
    /// Waits for the lock. Nobody holds it while something long is done.
    pub fn take(path: &Path) -> Result<Self, DiskError> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).doing("open", path)?;
        file.lock().doing("lock", path)?;
        Ok(Self(file))
    }
}
