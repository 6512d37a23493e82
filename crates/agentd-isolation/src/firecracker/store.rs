//! Where machines have their folders: each is locked for as long as its machine lives, so that what a dead agentd left is known.

use agentd_core::IsolationError;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// In the folder of all: locked while a machine's folder is made or removed.
const TURN: &str = "lock";

/// In a machine's folder: locked by its warden.
const ALIVE: &str = "alive";

/// Numbers the machines of this process.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// The folder of all machines of a user.
#[derive(Debug, Clone)]
pub(super) struct Store(PathBuf);

/// A machine's folder, fresh.
pub(super) struct Fresh {
    pub folder: PathBuf,
    /// Locked. Who has it lives.
    pub lock: File,
}

impl Store {
    pub(super) fn new(folder: &Path) -> Self {
        Self(folder.to_path_buf())
    }

    fn failed(&self, what: &str) -> impl FnOnce(io::Error) -> IsolationError {
        let context = format!("{what} {}", self.0.display());
        move |source| IsolationError::Io { context, source }
    }

    /// Makes a folder for a machine, after having removed those whose machines are dead.
    pub(super) fn make(&self) -> Result<Fresh, IsolationError> {
        private(&self.0).map_err(self.failed("make"))?;
        let _turn = self.turn().map_err(self.failed("lock"))?;
        self.reap().map_err(self.failed("clear"))?;
        self.fresh().map_err(self.failed("make a folder in"))
    }

    /// Removes what dead machines left.
    pub(super) fn clear(&self) -> Result<(), IsolationError> {
        if !self.0.exists() {
            return Ok(());
        }
        let _turn = self.turn().map_err(self.failed("lock"))?;
        self.reap().map_err(self.failed("clear"))
    }

    fn turn(&self) -> io::Result<File> {
        let file = open(&self.0.join(TURN))?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        Ok(file)
    }

    fn reap(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                continue;
            }
            let lock = open(&entry.path().join(ALIVE));
            let dead = lock.is_ok_and(|lock| rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok());
            if dead {
                // Its warden may be removing it at this moment, too. What stays is met again.
                fs::remove_dir_all(entry.path()).ok();
            }
        }
        Ok(())
    }

    fn fresh(&self) -> io::Result<Fresh> {
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let folder = self.0.join(format!("{:x}-{number:x}", std::process::id()));
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

/// Makes a directory that is the caller's alone, and those above it as they usually are.
pub(super) fn private(folder: &Path) -> io::Result<()> {
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(path, flags, Mode::from(0o600))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_dead_machine_is_removed_when_the_next_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("machines"));
        let (dead, alive) = (store.make().unwrap(), store.make().unwrap());
        assert!(dead.folder != alive.folder);
        fs::write(dead.folder.join("x"), "").unwrap();
        drop(dead.lock);
        let next = store.make().unwrap();
        assert!(!dead.folder.exists() && alive.folder.exists() && next.folder.exists());
        drop((alive.lock, next.lock));
        store.clear().unwrap();
        assert!(!alive.folder.exists() && !next.folder.exists());
    }
}
