//! Copies a tree that may change during the copy. Files that are removed during the copy are omitted. A file that is written
//! during the copy is copied with the contents at the time of reading.

use super::{
    attributes::{Metadata, apply_metadata, read_metadata},
    open::{Tree, kind, read},
};
use crate::error::StoreError;
use agentd_disk::{FileContext as _, lstat, names};
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

/// The mode of files and directories during the copy. Their own modes could lock out an unprivileged user.
const TEMPORARY_MODE: Mode = Mode::RWXU;
const NEW: OFlags = OFlags::CREATE.union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::WRONLY).union(OFlags::CLOEXEC);

/// Copies `from` into `to`, an empty tree: data, holes, owners, modes, times, hard and symbolic links, extended attributes and
/// special files.
pub(crate) fn copy(from: &Tree, to: &Tree) -> Result<(), StoreError> {
    let mut copy = Copy { from, to, linked: HashMap::new(), waiting: Vec::new(), directories: Vec::new() };
    let root = rustix::fs::fstat(&from.root).during("stat", &from.path)?;
    copy.waiting.push((PathBuf::new(), root));
    while let Some((at, stat)) = copy.waiting.pop() {
        let copied = copy.directory(&at, stat);
        copied.during("copy", from.path.join(&at))?;
    }
    let Copy { directories, .. } = copy;
    // Innermost first, because the final mode of an outer directory may deny access to an inner one.
    for (at, metadata) in directories.iter().rev() {
        apply_directory_metadata(to, at, metadata).during("set the metadata of", to.path.join(at))?;
    }
    Ok(())
}

/// Applies the metadata of a directory of `to`, through its name in its parent directory.
pub(super) fn apply_directory_metadata(to: &Tree, at: &Path, metadata: &Metadata) -> Result<(), Errno> {
    match (at.parent(), at.file_name()) {
        (Some(parent), Some(name)) => apply_metadata(to.enter(parent)?.as_fd(), name, metadata),
        _ => apply_metadata(to.root.as_fd(), OsStr::new("."), metadata),
    }
}

struct Copy<'a> {
    from: &'a Tree,
    to: &'a Tree,
    /// The first copy of each file with several names, by device and inode number of the source.
    linked: HashMap<(u64, u64), PathBuf>,
    /// Directories that were created and are not yet filled.
    waiting: Vec<(PathBuf, Stat)>,
    /// Directories that were filled and have no final metadata yet, outer ones first.
    directories: Vec<(PathBuf, Metadata)>,
}

impl Copy<'_> {
    fn directory(&mut self, at: &Path, stat: Stat) -> Result<(), Errno> {
        let source = match self.from.enter(at) {
            // The directory was removed or replaced during the copy.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            other => other?,
        };
        let target = self.to.enter(at)?;
        self.directories.push((at.to_owned(), read_metadata(source.as_fd(), OsStr::new("."), &stat)?));
        for name in names(source.as_fd())? {
            let Some(stat) = lstat(source.as_fd(), &name)? else { continue };
            let path = at.join(&name);
            if kind(&stat) == FileType::Directory {
                rustix::fs::mkdirat(&target, &name, TEMPORARY_MODE)?;
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

/// Copies an entry that is not a directory. `stat` is its metadata. Returns `NOENT` if the entry was removed in the meantime.
pub(super) fn copy_file(source: BorrowedFd<'_>, name: &OsStr, stat: &Stat, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let metadata = match kind(stat) {
        FileType::RegularFile => {
            // `data` is kept until the attributes are read, because it may hold a temporary change of the mode.
            let data = read(source, name)?.ok_or(Errno::NOENT)?;
            let metadata = read_metadata(source, name, stat)?;
            let copy = rustix::fs::openat(target, name, NEW, TEMPORARY_MODE)?;
            copy_data(&data.fd, &copy)?;
            metadata
        }
        FileType::Symlink => {
            let leads_to = rustix::fs::readlinkat(source, name, Vec::new()).map_err(changed)?;
            let metadata = read_metadata(source, name, stat)?;
            rustix::fs::symlinkat(leads_to.as_c_str(), target, name)?;
            metadata
        }
        special => {
            let metadata = read_metadata(source, name, stat)?;
            rustix::fs::mknodat(target, name, special, TEMPORARY_MODE, stat.st_rdev)?;
            metadata
        }
    };
    apply_metadata(target, name, &metadata)
}

/// Maps the error of reading a link that was replaced by another file to `NOENT`.
fn changed(errno: Errno) -> Errno {
    if errno == Errno::INVAL { Errno::NOENT } else { errno }
}

/// Copies the data of a file: as a reflink if the file system supports that, otherwise everything but holes.
fn copy_data(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let end = u64::try_from(rustix::fs::fstat(from)?.st_size).unwrap_or(0);
    let mut at = 0;
    while at < end {
        let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            // Only a hole remains.
            Err(Errno::NXIO) => break,
            other => other?,
        };
        let hole = rustix::fs::seek(from, SeekFrom::Hole(data))?.min(end);
        if copy_stretch(from, to, data, hole)? < hole {
            // The file was truncated during the copy.
            break;
        }
        at = hole;
    }
    rustix::fs::ftruncate(to, end)
}

/// Copies from `at` to `end`, and returns the offset at which the copy ended.
fn copy_stretch(from: &OwnedFd, to: &OwnedFd, mut at: u64, end: u64) -> Result<u64, Errno> {
    let mut put = at;
    while at < end {
        let length = usize::try_from(end - at).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(from, Some(&mut at), to, Some(&mut put), length) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            // `copy_file_range` does not support these file systems (`man 2 copy_file_range`).
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
