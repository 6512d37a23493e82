//! Removes a tree that a payload made: no link is followed, a directory that its owner may not enter is made enterable first, and one
//! that is too deep is first moved up.

use super::{DIRECTORY, HANDLE, Unlocked, look, names};
use rustix::{
    fs::{AtFlags, Mode, OFlags, RenameFlags},
    io::Errno,
};
use std::{
    ffi::OsStr,
    mem,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// How many directories are open at once, and how deep the calls here go.
const DEEPEST: u32 = 32;

/// Removes `name` in `parent`, whatever it is, with all below it; nothing there is no error.
pub(crate) fn erase(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    if unlink(parent, name)? {
        return Ok(());
    }
    empty(&enter(parent, name)?)?;
    remove_directory(parent, name)
}

/// Removes all that is in `directory`.
pub(crate) fn empty(directory: &OwnedFd) -> Result<(), Errno> {
    let mut top = Top { directory, moved: 0 };
    loop {
        let before = top.moved;
        top.clear(directory, 0)?;
        if top.moved == before {
            return Ok(());
        }
    }
}

/// Where directories that lie too deep are moved to.
struct Top<'a> {
    directory: &'a OwnedFd,
    moved: u64,
}

impl Top<'_> {
    fn clear(&mut self, directory: &OwnedFd, depth: u32) -> Result<(), Errno> {
        for name in names(directory.as_fd())? {
            if unlink(directory.as_fd(), &name)? {
                continue;
            }
            let child = enter(directory.as_fd(), &name)?;
            if depth == DEEPEST {
                self.take(directory, &name)?;
            } else {
                self.clear(&child, depth + 1)?;
                remove_directory(directory.as_fd(), &name)?;
            }
        }
        Ok(())
    }

    /// Moves a directory to the top, where the next round finds it.
    fn take(&mut self, directory: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
        loop {
            self.moved += 1;
            let free = format!("moved-{}", self.moved);
            match rustix::fs::renameat_with(directory, name, self.directory, free, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                other => return other,
            }
        }
    }
}

/// Removes what is not a directory, or is nothing; says whether that is done.
fn unlink(parent: BorrowedFd<'_>, name: &OsStr) -> Result<bool, Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        // A directory: Linux says the first, POSIX the second.
        Err(Errno::ISDIR | Errno::PERM) if look(parent, name)?.is_some() => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn remove_directory(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Opens a directory so that it can be emptied.
fn enter(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let handle = rustix::fs::openat(parent, name, HANDLE | OFlags::DIRECTORY, Mode::empty())?;
    if let Some(unlocked) = Unlocked::new(&handle, Mode::RWXU)? {
        // It is not locked again: it goes.
        mem::forget(unlocked);
    }
    rustix::fs::openat(&handle, ".", DIRECTORY, Mode::empty())
}
