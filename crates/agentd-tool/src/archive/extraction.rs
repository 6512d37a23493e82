//! Creates the files of an archive in a temporary directory, which gets its final name when everything is in it.
//!
//! Files and directories are created with their permissions, because file systems of some virtual machines ignore chmod(2).
//! The permissions are set once more at the end, because the umask may have restricted them.
//!
//! Every call is relative to a directory that was opened without following a link. Links are created last, so nothing is ever
//! created through a link of the archive.

use super::member_name;
use crate::{
    error::{ErrorCode, ToolError},
    resolve::{self, LastLink, NamedPlace, Resolver, kind},
    response::NodeKind,
    staged::temporary_name,
};
use agentd_disk::erase;
use rustix::{
    fs::{AtFlags, Mode, OFlags, fchmod, linkat, mkdirat, openat, renameat, statat, symlinkat, unlinkat},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

/// The maximum length of the names of links and directories, which are held in memory until the end, in bytes.
const MAX_NAMES: usize = 64 << 20;

/// The mode of a directory for which the archive has no entry.
const DIRECTORY: Mode = Mode::from_bits_retain(0o755);

/// An extraction in progress. The temporary directory is removed if the extraction is dropped before its end.
pub(super) struct Extraction {
    place: NamedPlace,
    staging: OsString,
    root: OwnedFd,
    links: Vec<(Vec<u8>, Vec<u8>)>,
    directories: Vec<(Vec<u8>, Mode)>,
    held: usize,
    finished: bool,
}

/// The reason for which an entry is not created.
pub(super) enum Refused {
    /// The entry is left out.
    Entry(String),
    /// The extraction ends.
    All(ToolError),
}

impl From<&'static str> for Refused {
    fn from(why: &'static str) -> Self {
        Self::Entry(why.to_owned())
    }
}

impl Extraction {
    /// Creates the temporary directory next to `path`.
    pub(super) fn begin(resolver: &Resolver, path: &[u8]) -> Result<Self, ToolError> {
        let failed = |errno| ToolError::system("extract to", path, errno);
        let place = resolver.resolve("extract to", path, LastLink::Keep)?.require_name("extract to", path)?;
        let replaced = place.stat().map_err(failed)?;
        if replaced.is_some_and(|found| kind(&found) != NodeKind::Directory) {
            return Err(failed(Errno::EXIST));
        }
        // Nobody may read or change the files who may not do so in the directory that is replaced.
        let mode = replaced.map_or(DIRECTORY, |old| Mode::from_raw_mode(old.st_mode & 0o777) & DIRECTORY | Mode::RWXU);
        let staging = temporary_name().map_err(failed)?;
        mkdirat(&place.directory, &staging, mode).map_err(failed)?;
        let root = resolve::open_directory(&place.directory, &staging).map_err(failed)?;
        Ok(Self { place, staging, root, links: Vec::new(), directories: Vec::new(), held: 0, finished: false })
    }

    /// Creates a directory.
    pub(super) fn directory(&mut self, name: &[u8], mode: u32) -> Result<(), Refused> {
        let parts = member_name::components(name)?;
        let mode = Mode::from_raw_mode(mode & 0o777 | 0o700);
        if let Some((last, above)) = parts.split_last() {
            create_directory(&self.open(above)?, OsStr::from_bytes(last), mode).map_err(|errno| entry(name, errno))?;
        }
        self.open(&parts)?;
        self.hold(name.len())?;
        self.directories.push((name.to_vec(), mode));
        Ok(())
    }

    /// Creates a regular file of at most `max` bytes, without set-id bits. Returns the number of bytes.
    pub(super) fn file(&mut self, name: &[u8], mode: u32, data: &mut dyn Read, max: u64) -> Result<u64, Refused> {
        let (parent, last) = self.new_place(name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode & 0o777);
        let created = openat(&parent, last, flags, mode).map_err(|errno| entry(name, errno))?;
        let mut file = File::from(created);
        let written = copy(data, &mut file, max, name)?;
        fchmod(&file, mode).map_err(|errno| entry(name, errno))?;
        Ok(written)
    }

    /// Creates a hard link to a file that was extracted before.
    pub(super) fn hard_link(&mut self, name: &[u8], target: &[u8]) -> Result<(), Refused> {
        let parts = member_name::components(target)?;
        let (last, above) = parts.split_last().ok_or("hard link to the directory itself")?;
        let source = self.existing(above).map_err(|_| "hard link to a missing file")?;
        let found =
            statat(&source, OsStr::from_bytes(last), AtFlags::SYMLINK_NOFOLLOW).map_err(|_| "hard link to a missing file")?;
        if kind(&found) != NodeKind::File {
            return Err("hard link to something other than a file".into());
        }
        if member_name::components(name)? == parts {
            return Ok(());
        }
        let (parent, last_name) = self.new_place(name)?;
        linkat(&source, OsStr::from_bytes(last), &parent, last_name, AtFlags::empty()).map_err(|errno| entry(name, errno))
    }

    /// Remembers a symbolic link, which [`Extraction::finish`] creates.
    pub(super) fn link(&mut self, name: &[u8], target: &[u8]) -> Result<(), Refused> {
        let parts = member_name::components(name)?;
        member_name::check_target(target, parts.len().checked_sub(1).ok_or("the new directory as a link")?)?;
        self.hold(name.len() + target.len())?;
        self.links.push((name.to_vec(), target.to_vec()));
        Ok(())
    }

    /// Creates the links, sets the permissions of the directories, and renames the staging directory to its final name. Returns
    /// the links that were not created.
    pub(super) fn finish(mut self, path: &[u8]) -> Result<Vec<(Vec<u8>, String)>, ToolError> {
        let failed = |errno| ToolError::system("extract to", path, errno);
        let mut refused = Vec::new();
        for (name, target) in std::mem::take(&mut self.links) {
            match self.create_link(&name, &target) {
                Ok(()) => {}
                Err(Refused::Entry(why)) => refused.push((name, why)),
                Err(Refused::All(error)) => return Err(error),
            }
        }
        for (name, mode) in std::mem::take(&mut self.directories) {
            // A later entry may have replaced the directory.
            if let Ok(parts) = member_name::components(&name)
                && let Ok(directory) = self.existing(&parts)
            {
                fchmod(&directory, mode).map_err(failed)?;
            }
        }
        // An empty directory that is replaced keeps its permissions.
        let mode = self.place.stat().map_err(failed)?.map_or(DIRECTORY, |old| Mode::from_raw_mode(old.st_mode & 0o777));
        fchmod(&self.root, mode).map_err(failed)?;
        let directory = self.place.directory.as_fd();
        // Replaces an empty directory (`man 2 rename`).
        renameat(directory, &self.staging, directory, &self.place.name).map_err(|errno| match errno {
            Errno::NOTEMPTY | Errno::EXIST => failed(Errno::EXIST),
            errno => failed(errno),
        })?;
        self.finished = true;
        Ok(refused)
    }

    fn create_link(&self, name: &[u8], target: &[u8]) -> Result<(), Refused> {
        let parts = member_name::components(name)?;
        let (last, above) = parts.split_last().ok_or("the new directory as a link")?;
        let parent = self.open(above)?;
        match symlinkat(OsStr::from_bytes(target), &parent, OsStr::from_bytes(last)) {
            Err(Errno::EXIST) => Err("another entry has this name".into()),
            other => other.map_err(|errno| entry(name, errno)),
        }
    }

    /// Returns the directory and the last component of a name at which nothing exists. A file that an earlier entry created
    /// there is removed.
    fn new_place<'n>(&self, name: &'n [u8]) -> Result<(OwnedFd, &'n OsStr), Refused> {
        let parts = member_name::components(name)?;
        let (last, above) = parts.split_last().ok_or("the new directory as a file")?;
        let (parent, last) = (self.open(above)?, OsStr::from_bytes(last));
        match unlinkat(&parent, last, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok((parent, last)),
            Err(Errno::ISDIR | Errno::PERM) => Err("a directory of this name exists".into()),
            Err(errno) => Err(entry(name, errno)),
        }
    }

    /// Opens a directory, and creates it and those above if necessary.
    fn open(&self, parts: &[&[u8]]) -> Result<OwnedFd, Refused> {
        let failed = |errno| match errno {
            Errno::NOTDIR | Errno::LOOP => Refused::from("a file exists where the entry needs a directory"),
            errno => entry(&parts.join(&b'/'), errno),
        };
        let mut directory = self.root.try_clone().map_err(|_| failed(Errno::MFILE))?;
        for part in parts {
            let name = OsStr::from_bytes(part);
            create_directory(&directory, name, DIRECTORY).map_err(failed)?;
            directory = resolve::open_directory(&directory, name).map_err(failed)?;
        }
        Ok(directory)
    }

    /// Opens a directory that exists.
    fn existing(&self, parts: &[&[u8]]) -> Result<OwnedFd, Errno> {
        let mut directory = self.root.try_clone().map_err(|_| Errno::MFILE)?;
        for part in parts {
            directory = resolve::open_directory(&directory, OsStr::from_bytes(part))?;
        }
        Ok(directory)
    }

    fn hold(&mut self, bytes: usize) -> Result<(), Refused> {
        self.held += bytes;
        if self.held <= MAX_NAMES {
            return Ok(());
        }
        let why = "archive: the names of its directories and links are longer than 64 MiB in total — extract it by a command";
        Err(Refused::All(ToolError::new(ErrorCode::Limit, why)))
    }
}

impl Drop for Extraction {
    fn drop(&mut self) {
        if !self.finished {
            // The caller gets the error that ended the extraction.
            let _ = erase(self.place.directory.as_fd(), &self.staging);
        }
    }
}

/// Creates a directory, unless a file of this name exists.
fn create_directory(parent: &OwnedFd, name: &OsStr, mode: Mode) -> Result<(), Errno> {
    match mkdirat(parent, name, mode) {
        Err(Errno::EXIST) => Ok(()),
        created => created,
    }
}

/// Returns the error of a system call for an entry, which ends the extraction.
fn entry(name: &[u8], errno: Errno) -> Refused {
    Refused::All(ToolError::system("extract", name, errno))
}

fn copy(data: &mut dyn Read, file: &mut File, max: u64, name: &[u8]) -> Result<u64, Refused> {
    let (mut buffer, mut written) = (vec![0; 64 << 10], 0_u64);
    loop {
        let read = match data.read(&mut buffer) {
            Ok(0) => return Ok(written),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Refused::All(agentd_archive::UnpackError::from_stream(error).into())),
        };
        written += read as u64;
        if written > max {
            let why = "the files of the archive are larger than the limit — raise `max_bytes`, unless it is a bomb";
            return Err(Refused::All(ToolError::at(ErrorCode::Limit, "extract", name, why)));
        }
        if let Err(error) = file.write_all(&buffer[..read]) {
            return Err(Refused::All(crate::read::failed(name, &error)));
        }
    }
}
