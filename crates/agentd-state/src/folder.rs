//! The folder of the store: its files, their permissions, and the lock of its opening.

use crate::error::StateError;
use agentd_disk::{DiskError, FileContext as _, Lock, is_own_uid};
use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

const DATABASE: &str = "state.db";
const COUNTER: &str = "commits";
const LOCK: &str = "lock";
const OWNERS: &str = "owners";
const CONFIGURATION: &str = "configuration-lock";

/// The folder, which is private to this user. The path contains no symbolic link.
#[derive(Debug, Clone)]
pub(crate) struct StateFolder(PathBuf);

impl StateFolder {
    /// Creates the folder if necessary, and checks the permissions of the folder and its files.
    ///
    /// # Errors
    /// [`StateError::Folder`], [`StateError::File`] and [`StateError::Disk`].
    pub fn prepare(path: &Path) -> Result<Self, StateError> {
        let private = |path: &Path| {
            agentd_disk::make_private(path).map_err(|source| StateError::Folder { path: path.to_path_buf(), source })
        };
        private(path)?;
        let folder = Self(fs::canonicalize(path).during("resolve", path)?);
        private(&folder.owners())?;
        for name in [DATABASE, "state.db-wal", "state.db-shm", "state.db-journal", COUNTER, LOCK, CONFIGURATION] {
            check(&folder.0.join(name))?;
        }
        Ok(folder)
    }

    /// Locks the opening of the store, and the creation and removal of owners. Waits for other processes and threads.
    ///
    /// # Errors
    /// [`StateError::Disk`].
    pub fn lock(&self) -> Result<Lock, StateError> {
        Ok(Lock::take(&self.0.join(LOCK))?)
    }

    /// Locks the record of the configuration; returns `None` if another task or process has locked it.
    ///
    /// # Errors
    /// [`StateError::Disk`].
    pub fn try_lock_configuration(&self) -> Result<Option<Lock>, StateError> {
        Ok(Lock::try_take(&self.0.join(CONFIGURATION))?)
    }

    /// Creates an empty database if there is none. The caller holds the lock. An existing database is not opened: closing a file
    /// releases the locks that SQLite holds in this process (`man 2 fcntl`).
    ///
    /// # Errors
    /// [`StateError::Disk`].
    pub fn create_database(&self) -> Result<(), StateError> {
        let path = self.database();
        match OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            created => Ok(created.map(drop).during("create", path)?),
        }
    }

    /// Makes the names of the files durable.
    ///
    /// # Errors
    /// [`StateError::Disk`].
    pub fn flush(&self) -> Result<(), StateError> {
        Ok(agentd_disk::flush_directory(&self.0)?)
    }

    /// Returns the path of the database.
    pub fn database(&self) -> PathBuf {
        self.0.join(DATABASE)
    }

    /// Returns the path of the file with the number of acknowledged transactions.
    pub fn counter(&self) -> PathBuf {
        self.0.join(COUNTER)
    }

    /// Returns the folder of the lock files of owners.
    pub fn owners(&self) -> PathBuf {
        self.0.join(OWNERS)
    }
}

/// Returns true if there is a database in the folder.
pub(crate) fn is_present(path: &Path) -> bool {
    path.join(DATABASE).symlink_metadata().is_ok()
}

/// Refuses a file that another user owns or may access, that is a link, or that has another name.
fn check(path: &Path) -> Result<(), StateError> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.during("stat", path)?,
    };
    let problem = if !found.is_file() {
        "not a regular file — move it away"
    } else if !is_own_uid(found.uid()) {
        "the file belongs to another user — run agentd as its owner, or move it away"
    } else if found.mode() & 0o077 != 0 {
        "the file is accessible to other users — run chmod 600 on it, and check its content if others could write"
    } else if found.nlink() != 1 {
        "the file has a second name (a hard link) — copy it, and replace it by the copy"
    } else {
        return Ok(());
    };
    Err(StateError::File { path: path.to_path_buf(), problem })
}

/// Removes a lock file of an owner that is dead.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn remove(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.during("remove", path),
    }
}
