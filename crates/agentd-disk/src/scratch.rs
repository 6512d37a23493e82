//! Temporary directories that are removed after their creator dies. Each directory is locked by the process that created it, and
//! the creation of another directory with the same prefix removes the unlocked ones. The kernel releases the lock of a process
//! that is killed (`man 2 flock`).
//!
//! The parent may be a directory that others can write to, such as `/tmp`. Only directories that belong to the caller are
//! removed, and no symbolic link is followed. Only the owner can open the lock file, so another user cannot protect an abandoned
//! directory from removal.

use crate::{
    directory::{lstat, names},
    erase::erase,
    error::{DiskError, FileContext as _},
    owner::is_own_uid,
};
use agentd_log::{LogFailure as _, measure::CountedFact};
use rustix::{
    fs::{FileType, FlockOperation, Mode, OFlags},
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};
use std::{
    ffi::{OsStr, OsString},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

/// The lock's name in the directory.
const LOCK: &str = ".lock";

/// The maximum number of attempts to create and lock a directory. A concurrent sweep may remove the directory of each attempt.
const TRIES: u32 = 100;

/// A temporary directory of this process, removed on drop.
#[derive(Debug)]
pub struct Scratch {
    parent: OwnedFd,
    name: OsString,
    path: PathBuf,
    /// Holds the lock until the descriptor is closed.
    _lock: OwnedFd,
}

impl Scratch {
    /// Creates the directory `PREFIX-RANDOM` (mode 0700) in `parent`, and removes abandoned directories of the same prefix.
    ///
    /// # Errors
    /// The operation in `parent` that failed. An abandoned directory that cannot be removed is not an error: the next sweep tries
    /// again.
    pub fn make(parent: &Path, prefix: &str) -> Result<Self, DiskError> {
        Self::make_with_cleanup(parent, prefix, |_| ())
    }

    /// Like [`Scratch::make`]. In addition, `on_abandoned` is called with the name of each abandoned directory and removes
    /// resources elsewhere that belong to the directory. The call comes before the directory is removed. If the sweep is
    /// interrupted, a later sweep repeats the call.
    ///
    /// # Errors
    /// As [`Scratch::make`].
    pub fn make_with_cleanup(parent: &Path, prefix: &str, on_abandoned: impl FnMut(&str)) -> Result<Self, DiskError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent, flags, Mode::empty()).during("open", parent)?;
        sweep(directory.as_fd(), prefix, on_abandoned).during("list", parent)?;
        for _ in 0..TRIES {
            let mut random = [0; 8];
            getrandom(&mut random, GetRandomFlags::empty()).during("choose a random name in", parent)?;
            let name = OsString::from(format!("{prefix}-{:016x}", u64::from_ne_bytes(random)));
            if let Some(lock) = make_locked(directory.as_fd(), &name).during("create a directory in", parent)? {
                let path = parent.join(&name);
                return Ok(Self { parent: directory, name, path, _lock: lock });
            }
        }
        Err(Errno::BUSY).during("create a directory in", parent)
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the name of the directory in its parent.
    pub fn name(&self) -> &OsStr {
        &self.name
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // If the removal fails, the next sweep tries again.
        erase(self.parent.as_fd(), &self.name).or_warn("remove scratch directory", &self.name);
    }
}

/// Creates and locks a directory. Returns `None` if the name existed, or if a concurrent sweep removed the directory as an
/// abandoned one.
fn make_locked(parent: BorrowedFd<'_>, name: &OsStr) -> Result<Option<OwnedFd>, Errno> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Err(Errno::EXIST) => return Ok(None),
        other => other?,
    }
    match lock(parent, name) {
        // A concurrent sweep holds the lock or removed the directory, so the name may be free or refer to another directory.
        Err(Errno::NOENT | Errno::WOULDBLOCK) => Ok(None),
        Ok((_, false)) => Ok(None),
        Ok((lock, true)) => Ok(Some(lock)),
        Err(errno) => Err(errno),
    }
}

/// Locks a directory; also returns whether `name` still refers to the locked directory.
fn lock(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(OwnedFd, bool), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let lock = rustix::fs::openat(&directory, LOCK, flags, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    let held = rustix::fs::fstat(&lock)?;
    let now =
        rustix::fs::openat(parent, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .and_then(|now| lstat(now.as_fd(), OsStr::new(LOCK)));
    let same = matches!(now, Ok(Some(now)) if (now.st_dev, now.st_ino) == (held.st_dev, held.st_ino));
    Ok((lock, same))
}

/// Removes the abandoned directories of this prefix: those whose creators are dead.
fn sweep(parent: BorrowedFd<'_>, prefix: &str, mut on_abandoned: impl FnMut(&str)) -> Result<(), Errno> {
    let prefix = format!("{prefix}-");
    for name in names(parent)? {
        let Some(text) = name.to_str().filter(|text| text.starts_with(&prefix)) else { continue };
        if !is_own_directory(parent, &name) {
            continue;
        }
        if let Ok((_lock, true)) = lock(parent, &name) {
            on_abandoned(text);
            // If the removal fails, the next sweep tries again.
            if erase(parent, &name).or_warn("remove abandoned scratch directory", &name).is_some() {
                CountedFact::Swept { kind: "directory", number: 1 }.emit();
            }
        }
    }
    Ok(())
}

fn is_own_directory(parent: BorrowedFd<'_>, name: &OsStr) -> bool {
    let is_own = |found: rustix::fs::Stat| FileType::from_raw_mode(found.st_mode).is_dir() && is_own_uid(found.st_uid);
    matches!(lstat(parent, name), Ok(Some(found)) if is_own(found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, fs, os::unix::fs::symlink};

    fn left(parent: &Path) -> BTreeSet<String> {
        fs::read_dir(parent).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn abandoned_directories_are_removed_and_live_ones_stay() {
        let place = tempfile::tempdir().unwrap();
        let dead = place.path().join("agentd-x-dead");
        fs::create_dir_all(dead.join("deep/er")).unwrap();
        let unlocked = place.path().join("agentd-x-unlocked");
        fs::create_dir(&unlocked).unwrap();
        fs::write(unlocked.join(LOCK), "").unwrap();
        let other = place.path().join("agentd-xy-0");
        fs::create_dir(&other).unwrap();
        let mut removed = Vec::new();
        let first = Scratch::make_with_cleanup(place.path(), "agentd-x", |name| removed.push(name.to_owned())).unwrap();
        removed.sort();
        assert_eq!(removed, ["agentd-x-dead", "agentd-x-unlocked"]);
        let second = Scratch::make(place.path(), "agentd-x").unwrap();
        assert!(first.path().is_dir() && second.path().is_dir());
        drop((first, second));
        assert_eq!(left(place.path()), BTreeSet::from(["agentd-xy-0".to_owned()]));
    }

    #[test]
    fn sweep_does_not_follow_or_remove_links_and_files() {
        let place = tempfile::tempdir().unwrap();
        let victim = place.path().join("victim");
        fs::create_dir(&victim).unwrap();
        fs::write(victim.join("kept"), "kept").unwrap();
        let swept = place.path().join("swept");
        fs::create_dir_all(swept.join("agentd-x-2")).unwrap();
        symlink(&victim, swept.join("agentd-x-1")).unwrap();
        symlink(&victim, swept.join("agentd-x-2/link")).unwrap();
        // The lock file of a live directory is neither a symbolic link nor a FIFO, whose opening would block.
        fs::create_dir(swept.join("agentd-x-3")).unwrap();
        symlink(victim.join("made"), swept.join("agentd-x-3").join(LOCK)).unwrap();
        fs::write(swept.join("agentd-x-4"), "file").unwrap();
        fs::create_dir(swept.join("agentd-x-5")).unwrap();
        let fifo = swept.join("agentd-x-5").join(LOCK);
        rustix::fs::mknodat(rustix::fs::CWD, fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
        drop(Scratch::make(&swept, "agentd-x").unwrap());
        assert_eq!(left(&victim), BTreeSet::from(["kept".to_owned()]));
        assert!(left(&swept).contains("agentd-x-1") && left(&swept).contains("agentd-x-4"));
    }

    #[test]
    fn concurrent_creation_keeps_live_directories() {
        let place = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        let scratch = Scratch::make(place.path(), "agentd-x").unwrap();
                        fs::write(scratch.path().join("file"), "").unwrap();
                        assert!(scratch.path().join("file").exists());
                    }
                });
            }
        });
        assert_eq!(left(place.path()), BTreeSet::new());
    }

    /// Tests that need root. An ordinary user skips them: `--skip as_root::`.
    mod as_root {
        use super::*;

        #[test]
        fn directory_of_another_user_stays() {
            let place = tempfile::tempdir().unwrap();
            let other = place.path().join("agentd-x-0");
            fs::create_dir(&other).unwrap();
            std::os::unix::fs::chown(&other, Some(65534), Some(65534)).unwrap();
            drop(Scratch::make(place.path(), "agentd-x").unwrap());
            assert!(other.is_dir());
        }
    }
}
