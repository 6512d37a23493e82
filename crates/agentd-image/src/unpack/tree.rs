//! The only code that touches the file system while a layer is unpacked. Each call is relative to a directory descriptor that was
//! opened by `openat2` (`man 2 openat2`) beneath the layer's root and without following links. A name that [`super::name`]
//! accepted therefore resolves to a place below the layer's root, and a link from the archive is never followed.

use super::{
    attributes::{self, Ownership},
    name::Name,
};
use agentd_archive::{ErrnoContext, Record, UnpackError};
use agentd_disk::erase;
use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, RawMode, ResolveFlags, Stat, Timespec, Timestamps, Uid},
    io::Errno,
};
use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

/// The mode of files and directories during unpacking. The archive's modes could deny an unprivileged user access to the user's
/// own directories.
const TEMPORARY_MODE: Mode = Mode::RWXU;
const NEW: OFlags = OFlags::CREATE.union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The tree of a layer during unpacking.
pub(super) struct LayerTree<'a> {
    root: BorrowedFd<'a>,
    ownership: Ownership,
}

impl<'a> LayerTree<'a> {
    pub(super) fn new(root: BorrowedFd<'a>, ownership: Ownership) -> Self {
        Self { root, ownership }
    }

    /// Opens a directory of the tree.
    pub(super) fn directory(&self, name: &Name) -> Result<OwnedFd, Errno> {
        rustix::fs::openat2(
            self.root,
            name.path(),
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        )
    }

    /// Opens the parent directory of `name`, creating missing ancestors. `made` is called for each directory that was created.
    pub(super) fn parent(&self, name: &Name, mut made: impl FnMut(Name)) -> Result<OwnedFd, UnpackError> {
        let parent = name.parent();
        match self.directory(&parent) {
            Err(Errno::NOENT) => {}
            other => return other.map_err(|errno| blocked(errno, name)),
        }
        for ancestor in parent.ancestors_and_self() {
            let above = self.directory(&ancestor.parent()).map_err(|errno| blocked(errno, name))?;
            match rustix::fs::mkdirat(&above, ancestor.last(), TEMPORARY_MODE) {
                Ok(()) => made(ancestor),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno).during("mkdirat", ancestor.path()),
            }
        }
        self.directory(&parent).map_err(|errno| blocked(errno, name))
    }

    /// Returns the metadata of `name` in `parent`, without following a link; `None` if the name does not exist.
    pub(super) fn lstat(&self, parent: &OwnedFd, name: &Name) -> Result<Option<Stat>, UnpackError> {
        match rustix::fs::statat(parent, name.last(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno).during("statat", name.path()),
        }
    }

    /// Removes `name`, with its contents if it is a directory.
    pub(super) fn clear(&self, parent: &OwnedFd, name: &Name) -> Result<(), UnpackError> {
        erase(parent.as_fd(), &name.last()).during("unlinkat", name.path())
    }

    pub(super) fn make_directory(&self, parent: &OwnedFd, name: &Name) -> Result<(), UnpackError> {
        rustix::fs::mkdirat(parent, name.last(), TEMPORARY_MODE).during("mkdirat", name.path())
    }

    /// Creates a regular file with its data, and returns the number of attributes that were left out.
    pub(super) fn make_file(
        &self,
        parent: &OwnedFd,
        name: &Name,
        record: &Record,
        data: &mut dyn Read,
    ) -> Result<u64, UnpackError> {
        let file = rustix::fs::openat(parent, name.last(), NEW | OFlags::WRONLY, TEMPORARY_MODE).during("openat", name.path())?;
        let mut file = File::from(file);
        copy(data, &mut file, record.size, name)?;
        let dropped = attributes::keep(file.as_fd(), &record.attributes).during("fsetxattr", name.path())?;
        self.set_metadata(file.as_fd(), name, record.mode, (record.uid, record.gid), record.modified)?;
        Ok(dropped)
    }

    pub(super) fn make_fifo(&self, parent: &OwnedFd, name: &Name, record: &Record) -> Result<(), UnpackError> {
        rustix::fs::mknodat(parent, name.last(), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).during("mknodat", name.path())?;
        // Opening a FIFO for reading with `O_NONBLOCK` does not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fifo = rustix::fs::openat(parent, name.last(), flags, Mode::empty()).during("openat", name.path())?;
        self.set_metadata(fifo.as_fd(), name, record.mode, (record.uid, record.gid), record.modified)
    }

    /// Creates a symbolic link. Its target is not checked, because no code here follows it.
    pub(super) fn make_symlink(&self, parent: &OwnedFd, name: &Name, record: &Record) -> Result<(), UnpackError> {
        let last = name.last();
        rustix::fs::symlinkat(OsStr::from_bytes(&record.link), parent, &last).during("symlinkat", name.path())?;
        if self.ownership == Ownership::Kept {
            let (uid, gid) = (Uid::from_raw(record.uid), Gid::from_raw(record.gid));
            rustix::fs::chownat(parent, &last, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .during("fchownat", name.path())?;
        }
        rustix::fs::utimensat(parent, &last, &times(record.modified), AtFlags::SYMLINK_NOFOLLOW).during("utimensat", name.path())
    }

    /// Creates a hard link to the entry of this layer at `target`.
    pub(super) fn make_hard_link(&self, parent: &OwnedFd, name: &Name, target: &Name) -> Result<(), UnpackError> {
        let directory = self.directory(&target.parent()).map_err(|errno| blocked(errno, target))?;
        rustix::fs::linkat(directory, target.last(), parent, name.last(), AtFlags::empty()).during("linkat", name.path())
    }

    /// Creates an overlayfs whiteout, which hides `name` in the layers below: a character device 0:0
    /// (Documentation/filesystems/overlayfs.rst). An unprivileged user may create one since Linux 5.8.
    pub(super) fn make_whiteout(&self, parent: &OwnedFd, name: &Name) -> Result<(), UnpackError> {
        rustix::fs::mknodat(parent, name.last(), FileType::CharacterDevice, Mode::empty(), 0).during("mknodat", name.path())
    }

    /// Marks a directory as opaque, so that overlayfs hides its contents in the layers below.
    pub(super) fn make_opaque(&self, directory: &OwnedFd, name: &Name) -> Result<(), UnpackError> {
        attributes::make_opaque(directory.as_fd(), self.ownership).during("fsetxattr overlay.opaque", name.path())
    }

    /// Applies owner, mode and time to a new file, in this order: changing the owner clears set-id bits, and changing the time
    /// comes last so that no other change follows.
    pub(super) fn set_metadata(
        &self,
        file: BorrowedFd<'_>,
        name: &Name,
        mode: u32,
        (uid, gid): (u32, u32),
        modified: Timespec,
    ) -> Result<(), UnpackError> {
        if self.ownership == Ownership::Kept {
            rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).during("fchown", name.path())?;
        }
        let mode = Mode::from_raw_mode(RawMode::from(self.ownership.allowed(mode)));
        rustix::fs::fchmod(file, mode).during("fchmod", name.path())?;
        rustix::fs::futimens(file, &times(modified)).during("futimens", name.path())
    }
}

/// Returns true for an overlayfs whiteout.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Returns true for a directory.
pub(super) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn times(modified: Timespec) -> Timestamps {
    Timestamps { last_access: modified, last_modification: modified }
}

/// Converts the errno of opening a directory on the way to `name`.
fn blocked(errno: Errno, name: &Name) -> UnpackError {
    match errno {
        Errno::LOOP | Errno::NOTDIR | Errno::XDEV => UnpackError::Through { path: name.path().to_owned() },
        errno => UnpackError::System { call: "openat2", path: name.path().to_owned(), errno },
    }
}

fn copy(data: &mut dyn Read, file: &mut File, size: u64, name: &Name) -> Result<(), UnpackError> {
    let mut buffer = [0; 64 << 10];
    let mut copied = 0;
    loop {
        let read = match data.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(UnpackError::from_stream(error)),
        };
        file.write_all(&buffer[..read])
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
            .during("write", name.path())?;
        copied += read as u64;
    }
    if copied == size { Ok(()) } else { Err(UnpackError::Archive(io::ErrorKind::UnexpectedEof.into())) }
}
