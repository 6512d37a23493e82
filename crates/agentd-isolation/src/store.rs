//! Folders of running machines and processes. The owner of a folder holds a lock in it while it runs, so that the next agentd
//! recognises and removes the folders that a dead one left.

use agentd_core::IsolationError;
use agentd_disk::NotPrivate;
use agentd_log::LogFailure as _;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// A file in the store folder, locked while a folder is created or removed in the store.
const LOCK_FILE: &str = "lock";

/// A file in each folder, locked by the folder's owner; for a machine, by its shim.
const ALIVE: &str = "alive";

/// The maximum number of attempts to lock a store folder that disappears. A folder that cannot be created is also reported as not
/// found.
const TRIES: u32 = 1000;

/// The number of the next folder of this process.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// A folder that contains all folders of one kind of one user.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
    /// Removes the folder of a dead owner with its content.
    remove: fn(&Path) -> io::Result<()>,
}

/// A newly created folder.
pub struct Fresh {
    /// The path of the folder.
    pub folder: PathBuf,
    /// The lock. The folder counts as in use while any copy of this descriptor is open.
    pub lock: File,
}

impl Store {
    /// Creates a store in `folder`. `remove` deletes the folder of a dead owner.
    pub fn new(folder: &Path, remove: fn(&Path) -> io::Result<()>) -> Self {
        Self { folder: folder.to_path_buf(), remove }
    }

    /// Returns the path of the store folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn failed(&self, what: &str) -> impl FnOnce(io::Error) -> IsolationError {
        let context = format!("{what} {}", self.folder.display());
        move |source| IsolationError::Io { context, source }
    }

    /// Removes the folders of dead owners, then creates a folder.
    ///
    /// # Errors
    /// [`IsolationError::Io`] if the store could not be locked or listed, or the folder could not be created.
    pub fn make(&self) -> Result<Fresh, IsolationError> {
        let _lock = self.lock().map_err(self.failed("lock"))?;
        self.reap().map_err(self.failed("remove the folders of dead processes in"))?;
        self.fresh().map_err(self.failed("create a folder in"))
    }

    /// Removes the folders of dead owners, and the store folder if nothing else is left in it.
    ///
    /// # Errors
    /// [`IsolationError::Io`] if the store could not be locked, listed or removed.
    pub fn clear(&self) -> Result<(), IsolationError> {
        if !self.folder.exists() {
            return Ok(());
        }
        let _lock = self.lock().map_err(self.failed("lock"))?;
        self.reap().and_then(|()| self.end_if_empty()).map_err(self.failed("remove the folders of dead processes in"))
    }

    /// Removes the caller's folder `own` under the lock of the store, and the store folder if nothing else is left in it.
    ///
    /// # Errors
    /// The error of locking the store or of removing a folder.
    pub fn remove(&self, own: &Path) -> io::Result<()> {
        let _lock = self.lock()?;
        (self.remove)(own)?;
        self.end_if_empty()
    }

    /// Removes the store folder if it contains no other folder. The caller holds the lock of the store.
    fn end_if_empty(&self) -> io::Result<()> {
        if fs::read_dir(&self.folder)?.count() > 1 {
            return Ok(());
        }
        fs::remove_file(self.folder.join(LOCK_FILE))?;
        match fs::remove_dir(&self.folder) {
            // Once the lock file is removed, other processes may enter the store again, or remove it themselves.
            Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound) => Ok(()),
            left => left,
        }
    }

    fn lock(&self) -> io::Result<File> {
        let mut tries = 0;
        loop {
            match self.try_lock() {
                Ok(Some(lock)) => return Ok(lock),
                Ok(None) => {}
                // Another process removed the store folder in the meantime.
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Locks the store. Returns `None` if the locked file was removed or replaced in the meantime.
    fn try_lock(&self) -> io::Result<Option<File>> {
        let path = self.folder.join(LOCK_FILE);
        private(&self.folder)?;
        let file = open(&path)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        let (mine, now) = (file.metadata()?, fs::metadata(&path)?);
        Ok(((mine.dev(), mine.ino()) == (now.dev(), now.ino())).then_some(file))
    }

    fn reap(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                continue;
            }
            let dead = match File::open(entry.path().join(ALIVE)) {
                Ok(lock) => rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
                // The owner was killed before it created the file, or a removal deleted the file first.
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            };
            if dead {
                // The machine's shim may be removing the folder at the same time. A folder that remains is retried later.
                (self.remove)(&entry.path()).or_debug("remove folder of dead process", entry.path());
            }
        }
        Ok(())
    }

    fn fresh(&self) -> io::Result<Fresh> {
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let folder = self.folder.join(format!("{:x}-{number:x}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => {}
                // The folder of an earlier process with the same pid that is still exiting or dead.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            let lock = open(&folder.join(ALIVE))?;
            rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            return Ok(Fresh { folder, lock });
        }
    }
}

/// Creates a directory that only the caller can access, and its parents with their usual modes. Refuses an existing directory
/// that another user owns or can access.
///
/// # Errors
/// The error of creating the directory, or the reason why the existing one is refused.
pub fn private(folder: &Path) -> io::Result<()> {
    agentd_disk::make_private(folder).map_err(|error| match error {
        NotPrivate::Disk(error) => error.source,
        refused => io::Error::other(refused),
    })
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(path, flags, Mode::from(0o600))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_folder_created_during_removal_of_last_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("homes"), |dead| fs::remove_dir_all(dead));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        let Fresh { folder, lock: _lock } = store.make().unwrap();
                        store.remove(&folder).unwrap();
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        // A store folder that cannot be created is an error; locking is not retried without end.
        std::os::unix::fs::symlink("nowhere", dir.path().join("homes")).unwrap();
        assert!(store.make().is_err());
    }

    #[test]
    fn store_folder_of_dead_owner_is_removed_on_next_create() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("machines"), |dead| fs::remove_dir_all(dead));
        let (dead, alive) = (store.make().unwrap(), store.make().unwrap());
        assert!(dead.folder != alive.folder);
        fs::write(dead.folder.join("x"), "").unwrap();
        drop(dead.lock);
        let next = store.make().unwrap();
        assert!(!dead.folder.exists() && alive.folder.exists() && next.folder.exists());
        drop((alive.lock, next.lock));
        store.clear().unwrap();
        assert!(!dir.path().join("machines").exists());
        let (last, other) = (store.make().unwrap(), store.make().unwrap());
        store.remove(&other.folder).unwrap();
        assert!(last.folder.exists() && !other.folder.exists());
        store.remove(&last.folder).unwrap();
        assert!(!dir.path().join("machines").exists());
    }
}
