//! Folders of what lives, a machine or the sandboxes of a process: each is locked for as long as that lives, so that what a dead agentd left is
//! known.

use agentd_core::IsolationError;
use agentd_disk::NotPrivate;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// In the folder of all: locked while one's folder is made or removed.
const TURN: &str = "lock";

/// In one's folder: locked by whoever lives with it, a machine's by its warden.
const ALIVE: &str = "alive";

/// Numbers those of this process.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// The folder of all of one kind of a user.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    folder: PathBuf,
    /// Removes the folder of one that is dead, with all that is in it.
    remove: fn(&Path) -> io::Result<()>,
}

/// A folder, fresh.
pub(crate) struct Fresh {
    pub folder: PathBuf,
    /// Locked. Who has it lives.
    pub lock: File,
}

impl Store {
    pub(crate) fn new(folder: &Path, remove: fn(&Path) -> io::Result<()>) -> Self {
        Self { folder: folder.to_path_buf(), remove }
    }

    fn failed(&self, what: &str) -> impl FnOnce(io::Error) -> IsolationError {
        let context = format!("{what} {}", self.folder.display());
        move |source| IsolationError::Io { context, source }
    }

    /// Makes a folder, after having removed those of the dead.
    pub(crate) fn make(&self) -> Result<Fresh, IsolationError> {
        let _turn = self.turn().map_err(self.failed("lock"))?;
        self.reap().map_err(self.failed("clear"))?;
        self.fresh().map_err(self.failed("make a folder in"))
    }

    /// Removes what the dead left.
    pub(crate) fn clear(&self) -> Result<(), IsolationError> {
        if !self.folder.exists() {
            return Ok(());
        }
        let _turn = self.turn().map_err(self.failed("lock"))?;
        self.reap().map_err(self.failed("clear"))
    }

    /// Removes the folder of all, if nobody has one in it.
    pub(crate) fn leave(&self) -> io::Result<()> {
        let _turn = self.turn()?;
        if fs::read_dir(&self.folder)?.count() > 1 {
            return Ok(());
        }
        fs::remove_file(self.folder.join(TURN))?;
        fs::remove_dir(&self.folder)
    }

    fn turn(&self) -> io::Result<File> {
        let path = self.folder.join(TURN);
        loop {
            private(&self.folder)?;
            let file = match open(&path) {
                // Whoever left took the folder away.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?,
            };
            rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
            // Likewise, while this one waited.
            if fs::metadata(&path)
                .is_ok_and(|now| file.metadata().is_ok_and(|mine| (mine.dev(), mine.ino()) == (now.dev(), now.ino())))
            {
                return Ok(file);
            }
        }
    }

    fn reap(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                continue;
            }
            let lock = open(&entry.path().join(ALIVE));
            let dead = lock.is_ok_and(|lock| rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok());
            if dead {
                // A machine's warden may be removing it at this moment, too. What stays is met again.
                (self.remove)(&entry.path()).ok();
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
                // Of a process that had the same number, and is dying.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            let lock = open(&folder.join(ALIVE))?;
            rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            return Ok(Fresh { folder, lock });
        }
    }
}

/// Makes a directory that is the caller's alone, and those above it as they usually are. In a place where others can make directories
/// too, what is there may be one of theirs.
pub(crate) fn private(folder: &Path) -> io::Result<()> {
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
    fn the_folder_of_the_dead_is_removed_when_the_next_is_made() {
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
        assert!(!alive.folder.exists() && !next.folder.exists());
        let last = store.make().unwrap();
        store.leave().unwrap();
        assert!(last.folder.exists());
        fs::remove_dir_all(&last.folder).unwrap();
        store.leave().unwrap();
        assert!(!dir.path().join("machines").exists());
    }
}
