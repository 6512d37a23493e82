//! The only code that touches the file system while a layer is unpacked. Each call is relative to a descriptor, and each
//! descriptor of a directory was opened by `openat2` (`man 2 openat2`) beneath the layer's root and through no link: a name that
//! got past [`super::name`] still ends inside, and a link that the archive made is never followed.

use super::{
    attributes::{self, Ownership},
    error::{At, UnpackError},
    name::Name,
    record::Record,
};
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

/// Rights while the layer is unpacked: those of the archive would lock an ordinary user out of his own directories.
const DURING: Mode = Mode::RWXU;
const NEW: OFlags = OFlags::CREATE.union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A layer's tree while it grows.
pub(super) struct Tree<'a> {
    root: BorrowedFd<'a>,
    ownership: Ownership,
}

impl<'a> Tree<'a> {
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

    /// Opens the directory that `name` lies in; `made` hears of each that was missing and is there now.
    pub(super) fn parent(&self, name: &Name, mut made: impl FnMut(Name)) -> Result<OwnedFd, UnpackError> {
        let parent = name.parent();
        match self.directory(&parent) {
            Err(Errno::NOENT) => {}
            other => return other.map_err(|errno| blocked(errno, name)),
        }
        for ancestor in parent.ancestors_and_self() {
            let above = self.directory(&ancestor.parent()).map_err(|errno| blocked(errno, name))?;
            match rustix::fs::mkdirat(&above, ancestor.last(), DURING) {
                Ok(()) => made(ancestor),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno).at("mkdirat", ancestor.path()),
            }
        }
        self.directory(&parent).map_err(|errno| blocked(errno, name))
    }

    /// What is at `name` in `parent`.
    pub(super) fn look(&self, parent: &OwnedFd, name: &Name) -> Result<Option<Stat>, UnpackError> {
        match rustix::fs::statat(parent, name.last(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno).at("statat", name.path()),
        }
    }

    /// Removes what is at `name`, with all below it.
    pub(super) fn clear(&self, parent: &OwnedFd, name: &Name) -> Result<(), UnpackError> {
        erase(parent.as_fd(), &name.last()).at("unlinkat", name.path())
    }

    pub(super) fn make_directory(&self, parent: &OwnedFd, name: &Name) -> Result<(), UnpackError> {
        rustix::fs::mkdirat(parent, name.last(), DURING).at("mkdirat", name.path())
    }

    /// A regular file with its data; the number of attributes that were not kept.
    pub(super) fn make_file(
        &self,
        parent: &OwnedFd,
        name: &Name,
        record: &Record,
        data: &mut dyn Read,
    ) -> Result<u64, UnpackError> {
        let file = rustix::fs::openat(parent, name.last(), NEW | OFlags::WRONLY, DURING).at("openat", name.path())?;
        let mut file = File::from(file);
        copy(data, &mut file, record.size, name)?;
        let dropped = attributes::keep(file.as_fd(), &record.attributes).at("fsetxattr", name.path())?;
        self.dress(file.as_fd(), name, record.mode, (record.uid, record.gid), record.modified)?;
        Ok(dropped)
    }

    pub(super) fn make_fifo(&self, parent: &OwnedFd, name: &Name, record: &Record) -> Result<(), UnpackError> {
        rustix::fs::mknodat(parent, name.last(), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).at("mknodat", name.path())?;
        // Reading without blocking does not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fifo = rustix::fs::openat(parent, name.last(), flags, Mode::empty()).at("openat", name.path())?;
        self.dress(fifo.as_fd(), name, record.mode, (record.uid, record.gid), record.modified)
    }

    /// A symbolic link. Where it points does not matter: nothing here follows it.
    pub(super) fn make_symlink(&self, parent: &OwnedFd, name: &Name, record: &Record) -> Result<(), UnpackError> {
        let last = name.last();
        rustix::fs::symlinkat(OsStr::from_bytes(&record.link), parent, &last).at("symlinkat", name.path())?;
        if self.ownership == Ownership::Kept {
            let (uid, gid) = (Uid::from_raw(record.uid), Gid::from_raw(record.gid));
            rustix::fs::chownat(parent, &last, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).at("fchownat", name.path())?;
        }
        rustix::fs::utimensat(parent, &last, &times(record.modified), AtFlags::SYMLINK_NOFOLLOW).at("utimensat", name.path())
    }

    /// Another name for what the layer already holds at `target`.
    pub(super) fn make_hard_link(&self, parent: &OwnedFd, name: &Name, target: &Name) -> Result<(), UnpackError> {
        let directory = self.directory(&target.parent()).map_err(|errno| blocked(errno, target))?;
        rustix::fs::linkat(directory, target.last(), parent, name.last(), AtFlags::empty()).at("linkat", name.path())
    }

    /// Overlayfs' mark that nothing of the layers below is at `name`: a character device 0:0 (Documentation/filesystems/overlayfs.rst),
    /// which a user without privileges may make too, since Linux 5.8.
    pub(super) fn make_whiteout(&self, parent: &OwnedFd, name: &Name) -> Result<(), UnpackError> {
        rustix::fs::mknodat(parent, name.last(), FileType::CharacterDevice, Mode::empty(), 0).at("mknodat", name.path())
    }

    /// Overlayfs' mark that nothing of the layers below is in this directory.
    pub(super) fn make_opaque(&self, directory: &OwnedFd, name: &Name) -> Result<(), UnpackError> {
        attributes::make_opaque(directory.as_fd(), self.ownership).at("fsetxattr overlay.opaque", name.path())
    }

    /// Gives a new file its owner, mode and time, in this order: a change of owner clears set-id bits, both change the time.
    pub(super) fn dress(
        &self,
        file: BorrowedFd<'_>,
        name: &Name,
        mode: u32,
        (uid, gid): (u32, u32),
        modified: Timespec,
    ) -> Result<(), UnpackError> {
        if self.ownership == Ownership::Kept {
            rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).at("fchown", name.path())?;
        }
        let mode = Mode::from_raw_mode(RawMode::from(self.ownership.allowed(mode)));
        rustix::fs::fchmod(file, mode).at("fchmod", name.path())?;
        rustix::fs::futimens(file, &times(modified)).at("futimens", name.path())
    }
}

/// Whether this is overlayfs' whiteout.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether this is a directory.
pub(super) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn times(modified: Timespec) -> Timestamps {
    Timestamps { last_access: modified, last_modification: modified }
}

/// Why a directory on the way to `name` could not be opened.
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
            .at("write", name.path())?;
        copied += read as u64;
    }
    if copied == size { Ok(()) } else { Err(UnpackError::Archive(io::ErrorKind::UnexpectedEof.into())) }
}
