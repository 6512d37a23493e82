//! Copies a tree that may change meanwhile. What goes away while it is copied is left out; a file that is written meanwhile is copied as
//! far as it had come.

use super::{
    Dress, Tree,
    attributes::{dress_like, dress_of},
    kind, look, names, read,
};
use crate::error::{Doing as _, StateError};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, SeekFrom, Stat},
    io::Errno,
};
use std::{
    collections::HashMap,
    ffi::OsStr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

/// Rights while the copy is made: its own would lock an ordinary user out.
const DURING: Mode = Mode::RWXU;
const NEW: OFlags = OFlags::CREATE.union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::WRONLY).union(OFlags::CLOEXEC);

/// Copies all of `from` into `to`, an empty tree: data, holes, owners, modes, times, links, extended attributes, special files.
pub(crate) fn copy(from: &Tree, to: &Tree) -> Result<(), StateError> {
    let mut copy = Copy { from, to, linked: HashMap::new(), waiting: Vec::new(), made: Vec::new() };
    let root = rustix::fs::fstat(&from.root).doing("look at", &from.path)?;
    copy.waiting.push((PathBuf::new(), root));
    while let Some((at, stat)) = copy.waiting.pop() {
        let copied = copy.directory(&at, stat);
        copied.doing("copy", from.path.join(&at))?;
    }
    let Copy { made, .. } = copy;
    // The inner ones first: an outer one that is dressed may be closed.
    for (at, dress) in made.iter().rev() {
        dress_directory(to, at, dress).doing("dress", to.path.join(at))?;
    }
    Ok(())
}

/// Gives a directory of `to` its attributes, by its name in the one above it.
pub(super) fn dress_directory(to: &Tree, at: &Path, dress: &Dress) -> Result<(), Errno> {
    match (at.parent(), at.file_name()) {
        (Some(parent), Some(name)) => dress_like(to.enter(parent)?.as_fd(), name, dress),
        _ => dress_like(to.root.as_fd(), OsStr::new("."), dress),
    }
}

struct Copy<'a> {
    from: &'a Tree,
    to: &'a Tree,
    /// Where a file with several names has been copied to.
    linked: HashMap<(u64, u64), PathBuf>,
    /// Directories that are made and not yet filled.
    waiting: Vec<(PathBuf, Stat)>,
    /// Those that are filled and not yet dressed, outer ones first.
    made: Vec<(PathBuf, Dress)>,
}

impl Copy<'_> {
    fn directory(&mut self, at: &Path, stat: Stat) -> Result<(), Errno> {
        let source = match self.from.enter(at) {
            // It went away, or something else took its place.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            other => other?,
        };
        let target = self.to.enter(at)?;
        self.made.push((at.to_owned(), dress_of(source.as_fd(), OsStr::new("."), &stat)?));
        for name in names(source.as_fd())? {
            let Some(stat) = look(source.as_fd(), &name)? else { continue };
            let path = at.join(&name);
            if kind(&stat) == FileType::Directory {
                rustix::fs::mkdirat(&target, &name, DURING)?;
                self.waiting.push((path, stat));
            } else {
                self.file(source.as_fd(), target.as_fd(), &name, &path, &stat)?;
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        stat: &Stat,
    ) -> Result<(), Errno> {
        if let Some(first) = self.linked.get(&(stat.st_dev, stat.st_ino))
            && let (Some(parent), Some(first)) = (first.parent(), first.file_name())
        {
            return rustix::fs::linkat(self.to.enter(parent)?, first, target, name, AtFlags::empty());
        }
        match copy_file(source, name, stat, target) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno),
        }
        if stat.st_nlink > 1 {
            self.linked.insert((stat.st_dev, stat.st_ino), path.to_owned());
        }
        Ok(())
    }
}

/// Copies what is not a directory, of which `stat` is known; `NOENT` when it went away.
pub(super) fn copy_file(source: BorrowedFd<'_>, name: &OsStr, stat: &Stat, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let dress = match kind(stat) {
        FileType::RegularFile => {
            // It lives until its attributes are read.
            let data = read(source, name)?.ok_or(Errno::NOENT)?;
            let dress = dress_of(source, name, stat)?;
            let copy = rustix::fs::openat(target, name, NEW, DURING)?;
            copy_data(&data.fd, &copy)?;
            dress
        }
        FileType::Symlink => {
            let leads_to = rustix::fs::readlinkat(source, name, Vec::new()).map_err(changed)?;
            let dress = dress_of(source, name, stat)?;
            rustix::fs::symlinkat(leads_to.as_c_str(), target, name)?;
            dress
        }
        special => {
            let dress = dress_of(source, name, stat)?;
            rustix::fs::mknodat(target, name, special, DURING, stat.st_rdev)?;
            dress
        }
    };
    dress_like(target, name, &dress)
}

/// What is no link any more went away as one.
fn changed(errno: Errno) -> Errno {
    if errno == Errno::INVAL { Errno::NOENT } else { errno }
}

/// Copies the data of a file: shared where the file system can, else all but its holes.
fn copy_data(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let end = u64::try_from(rustix::fs::fstat(from)?.st_size).unwrap_or(0);
    let mut at = 0;
    while at < end {
        let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            other => other?,
        };
        let hole = rustix::fs::seek(from, SeekFrom::Hole(data))?.min(end);
        if copy_stretch(from, to, data, hole)? < hole {
            // It was cut off meanwhile.
            break;
        }
        at = hole;
    }
    rustix::fs::ftruncate(to, end)
}

/// Copies from `at` to `end`; where that ended.
fn copy_stretch(from: &OwnedFd, to: &OwnedFd, mut at: u64, end: u64) -> Result<u64, Errno> {
    let mut put = at;
    while at < end {
        let length = usize::try_from(end - at).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(from, Some(&mut at), to, Some(&mut put), length) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            // Not between these file systems.
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => return copy_by_hand(from, to, at, end),
            Err(errno) => return Err(errno),
        }
    }
    Ok(at)
}

fn copy_by_hand(from: &OwnedFd, to: &OwnedFd, mut at: u64, end: u64) -> Result<u64, Errno> {
    let mut buffer = vec![0; 256 << 10];
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let read = rustix::io::pread(from, &mut buffer[..wanted], at)?;
        if read == 0 {
            break;
        }
        let mut written = 0;
        while written < read {
            written += rustix::io::pwrite(to, &buffer[written..read], at + written as u64)?;
        }
        at += read as u64;
    }
    Ok(at)
}
