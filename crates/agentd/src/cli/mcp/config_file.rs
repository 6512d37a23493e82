//! The configuration file of an agent: read and replaced without following links.
//!
//! A project's directory may be one that a sandbox can change. A payload could leave a symbolic link there that leads to another
//! file of the user. Below the base directory, no part of the path may therefore be a link, and a file is replaced by renaming.

use super::super::failure::{self, Failure};
use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fchmod, fstat, fsync, mkdirat, openat, renameat, statat, unlinkat},
    io::Errno,
    process::geteuid,
    rand::{GetRandomFlags, getrandom},
};
use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

/// The largest file in bytes. `~/.claude.json` has the history of all projects.
const MAX_FILE: u64 = 64 << 20;

/// The write permission of all users (`inode(7)`).
const OTHERS_MAY_WRITE: u32 = 0o002;

/// The configuration file of an agent.
pub(super) struct ConfigFile {
    directory: OwnedFd,
    name: OsString,
    path: PathBuf,
    /// The state of the file when it was read; `None` if it did not exist.
    found: Option<Stat>,
    /// The text of the file.
    pub text: String,
}

impl ConfigFile {
    /// Opens the file at `file` below `base`, and reads it. A directory that is missing is created if `create` is true.
    ///
    /// # Errors
    /// A part of the path is a link, or belongs to another user, or cannot be opened; or the file is too large or not UTF-8.
    pub fn open(base: &Path, file: &Path, create: bool) -> Result<Option<Self>, Failure> {
        let path = base.join(file);
        let mut directory = open_directory(CWD, base, base, true)?;
        let mut at = base.to_path_buf();
        let mut parts = file.components().peekable();
        while let Some(Component::Normal(name)) = parts.next() {
            at.push(name);
            if parts.peek().is_none() {
                return Self::read(directory, name.to_owned(), path);
            }
            if create {
                match mkdirat(&directory, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(failure::of_file("create a directory", &at, &errno.into()).into()),
                }
            } else if statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).err() == Some(Errno::NOENT) {
                return Ok(None);
            }
            directory = open_directory(&directory, Path::new(name), &at, false)?;
        }
        Err(format!("{}: not the path of a file — report this as a bug of agentd", path.display()).into())
    }

    fn read(directory: OwnedFd, name: OsString, path: PathBuf) -> Result<Option<Self>, Failure> {
        let refused = |why: &str| Failure::from(format!("{}: {why}", path.display()));
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&directory, &name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(Some(Self { directory, name, path, found: None, text: String::new() })),
            Err(Errno::LOOP) => return Err(refused("is a symbolic link — use --print, and edit the file to which it leads")),
            Err(errno) => return Err(failure::of_file("open the configuration", &path, &errno.into()).into()),
        };
        let found = fstat(&file).map_err(io::Error::from)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(refused("is not a regular file — remove it"));
        }
        if found.st_uid != geteuid().as_raw() {
            return Err(refused("belongs to another user — use --print, and ask that user to change it"));
        }
        let mut text = String::new();
        let read = (&file).take(MAX_FILE + 1).read_to_string(&mut text);
        read.map_err(|error| failure::of_file("read the configuration", &path, &error))?;
        if text.len() as u64 > MAX_FILE {
            return Err(refused("is longer than 64 MiB — use --print, and edit it"));
        }
        Ok(Some(Self { directory, name, path, found: Some(found), text }))
    }

    /// Returns the path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the file, durably and at once: other programs see the old text or the new one.
    ///
    /// # Errors
    /// The file has changed since it was read, or cannot be written. It is unchanged then.
    pub fn replace(&self, text: &str) -> Result<(), Failure> {
        let mut random = [0; 8];
        getrandom(&mut random, GetRandomFlags::empty()).map_err(io::Error::from)?;
        let mut draft = self.name.clone();
        draft.push(format!(".agentd-{:016x}", u64::from_ne_bytes(random)));
        let replaced = self.write(&draft, text).and_then(|()| {
            if !self.is_unchanged()? {
                return Err(io::Error::other("another program has changed the file meanwhile"));
            }
            renameat(&self.directory, &draft, &self.directory, &self.name)?;
            Ok(fsync(&self.directory)?)
        });
        if replaced.is_err() {
            // The caller reports the first error. After the renaming, there is no draft any more.
            unlinkat(&self.directory, &draft, AtFlags::empty()).ok();
        }
        Ok(replaced.map_err(|error| failure::of_file("write the configuration", &self.path, &error))?)
    }

    fn write(&self, draft: &OsString, text: &str) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.directory, draft, flags, Mode::from_raw_mode(0o600))?);
        // Such files may contain credentials, so a new one is private to the user only where the user's other files are.
        let mode = self.found.as_ref().map_or(0o644, |found| found.st_mode & 0o777);
        fchmod(&file, Mode::from_raw_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }

    fn is_unchanged(&self) -> io::Result<bool> {
        let now = match statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(now) => Some(now),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno.into()),
        };
        let state = |stat: &Stat| {
            (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec)
        };
        Ok(now.as_ref().map(state) == self.found.as_ref().map(state))
    }
}

/// Opens a directory. `follow` allows links in its path.
fn open_directory(below: impl rustix::fd::AsFd, name: &Path, path: &Path, follow: bool) -> Result<OwnedFd, Failure> {
    let refused = |why: &str| Failure::from(format!("{}: {why}", path.display()));
    let links = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | links;
    let directory = match openat(below, name, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::LOOP | Errno::NOTDIR) if !follow => {
            return Err(refused("is a symbolic link or no directory — use --print, and edit the file to which it leads"));
        }
        Err(errno) => return Err(failure::of_file("open a directory", path, &errno.into()).into()),
    };
    let stat = fstat(&directory).map_err(io::Error::from)?;
    if stat.st_uid != geteuid().as_raw() && stat.st_uid != 0 {
        return Err(refused("belongs to another user, who can replace the configuration — use --print"));
    }
    if stat.st_mode & OTHERS_MAY_WRITE != 0 {
        return Err(refused("every user can write to the directory, and replace the configuration — run `chmod o-w` on it"));
    }
    Ok(directory)
}
