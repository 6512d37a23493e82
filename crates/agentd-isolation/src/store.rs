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

/// How often a folder may be taken away while it is entered. One that cannot be made is not there either, each time.
const TRIES: u32 = 1000;

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

    /// Removes what the dead left; and the folder of all, if nobody has one in it any more.
    pub(crate) fn clear(&self) -> Result<(), IsolationError> {
        if !self.folder.exists() {
            return Ok(());
        }
        let _turn = self.turn().map_err(self.failed("lock"))?;
        self.reap().and_then(|()| self.end_if_empty()).map_err(self.failed("clear"))
    }

    /// Removes one's own folder, as nobody else does meanwhile; and that of all, if nobody has one in it any more.
    pub(crate) fn leave(&self, own: &Path) -> io::Result<()> {
        let _turn = self.turn()?;
        (self.remove)(own)?;
        self.end_if_empty()
    }

    /// Removes the folder of all if nobody has one in it. Only in one's turn.
    fn end_if_empty(&self) -> io::Result<()> {
        if fs::read_dir(&self.folder)?.count() > 1 {
            return Ok(());
        }
        fs::remove_file(self.folder.join(TURN))?;
        match fs::remove_dir(&self.folder) {
            // From here on somebody may come, and may have left, too.
            Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound) => Ok(()),
            left => left,
        }
    }

    fn turn(&self) -> io::Result<File> {
        let mut tries = 0;
        loop {
            match self.try_turn() {
                Ok(Some(turn)) => return Ok(turn),
                Ok(None) => {}
                // Whoever left took the folder away, at whatever moment.
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// The turn; `None` when it was that of a folder which is no more.
    fn try_turn(&self) -> io::Result<Option<File>> {
        let path = self.folder.join(TURN);
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
                // Its maker was killed before it made that, or who removes it began with that.
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            };
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

/// Has work done that waits for disks.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IsolationError> + Send + 'static,
) -> Result<T, IsolationError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(IsolationError::Lost(format!("a thread that waited for a disk: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_while_the_last_one_leaves_is_not_turned_away() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("homes"), |dead| fs::remove_dir_all(dead));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        let Fresh { folder, lock: _lock } = store.make().unwrap();
                        store.leave(&folder).unwrap();
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        // What cannot be made is an error, and not tried for ever.
        std::os::unix::fs::symlink("nowhere", dir.path().join("homes")).unwrap();
        assert!(store.make().is_err());
    }

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
        assert!(!dir.path().join("machines").exists());
        let (last, other) = (store.make().unwrap(), store.make().unwrap());
        store.leave(&other.folder).unwrap();
        assert!(last.folder.exists() && !other.folder.exists());
        store.leave(&last.folder).unwrap();
        assert!(!dir.path().join("machines").exists());
    }
}
