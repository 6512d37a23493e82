//! The number of acknowledged transactions, in a file that is not flushed. SQLite ends its journal at the first damaged frame, so
//! a truncated or damaged journal loses transactions without an error. After a process ended, this file shows the loss. After a
//! power failure, the file may be older than the database, and then shows nothing.

use crate::{error::StateError, folder::StateFolder};
use agentd_disk::{DiskError, FileContext as _};
use sha2::{Digest as _, Sha256};
use std::{
    fs::{File, OpenOptions},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::PathBuf,
};

const LENGTH: usize = 16;

/// The maximum number of attempts to read the number while another process writes it.
const ATTEMPTS: u32 = 100;

/// The file with the number of acknowledged transactions.
#[derive(Debug)]
pub(crate) struct CommitCounter {
    file: File,
    path: PathBuf,
}

impl CommitCounter {
    /// Opens the file, and creates it if necessary.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn open(folder: &StateFolder) -> Result<Self, DiskError> {
        let path = folder.counter();
        let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true).mode(0o600).custom_flags(flags);
        Ok(Self { file: options.open(&path).during("open", &path)?, path })
    }

    /// Compares the file with the number of transactions in the database, which `found` reads after the file: another process
    /// may commit meanwhile, and writes the file after its commit.
    ///
    /// # Errors
    /// [`StateError::Lost`] if the database has fewer transactions, [`StateError::Damaged`] if the file is malformed, and those
    /// of `found`.
    pub fn compare(&self, folder: &StateFolder, found: impl FnOnce() -> Result<u64, StateError>) -> Result<(), StateError> {
        let acknowledged = self.read()?;
        match acknowledged.checked_sub(found()?) {
            None | Some(0) => Ok(()),
            Some(missing) => Err(StateError::Lost { path: folder.database(), missing, counter: self.path.clone() }),
        }
    }

    fn read(&self) -> Result<u64, StateError> {
        for _ in 0..ATTEMPTS {
            let mut bytes = [0; LENGTH];
            let length = self.file.read_at(&mut bytes, 0).during("read", &self.path)?;
            // Without a flush, a power failure may leave the file empty or with zeroes.
            if length == 0 || bytes == [0; LENGTH] {
                return Ok(0);
            }
            let (number, _) = bytes.split_at(LENGTH / 2);
            let number = number.try_into().map_or(0, u64::from_le_bytes);
            if length == LENGTH && bytes == encoded(number) {
                return Ok(number);
            }
        }
        Err(StateError::Damaged(format!("{:?} does not contain a number with its checksum", self.path)))
    }

    /// Writes the number of transactions.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn write(&self, number: u64) -> Result<(), DiskError> {
        self.file.write_all_at(&encoded(number), 0).during("write", &self.path)
    }
}

fn encoded(number: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    let sum = Sha256::digest(number.to_le_bytes());
    for (byte, value) in bytes.iter_mut().zip(number.to_le_bytes().into_iter().chain(sum)) {
        *byte = value;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commit_of_another_process_during_the_comparison_is_no_loss() {
        let place = tempfile::tempdir().unwrap();
        let folder = StateFolder::prepare(&place.path().join("state")).unwrap();
        let counter = CommitCounter::open(&folder).unwrap();
        counter.write(5).unwrap();
        let read_before_a_commit = || {
            counter.write(6).unwrap();
            Ok(5)
        };
        counter.compare(&folder, read_before_a_commit).unwrap();
        let lost = counter.compare(&folder, || Ok(5));
        assert!(matches!(lost, Err(StateError::Lost { missing: 1, .. })), "{lost:?}");
    }
}
