//! Receives entries and applies them to a directory. Entries from a guest are hostile until they have been checked here. Every
//! name is validated, resolved beneath the copied directory without following links, and checked against the rules. Directories
//! are removed only when empty. A file gets its name only when it is complete. Modes never include set-id bits of files. The
//! numbers of bytes, entries and name bytes are limited.

use super::{
    entry::{self, Content, DecodedEntry, Entry},
    error::{CopyError, ErrnoContext},
    scan::{FileKind, MAX_ENTRIES, SyncRoot},
    tree::{self, RelativeName},
};
use agentd_log::LogFailure as _;
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, RawMode, Timespec, Timestamps},
    io::Errno,
};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::File,
    io::Write,
    os::fd::{AsRawFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The maximum length of the target of a symbolic link that the kernel accepts, in bytes.
const MAX_LINK: usize = 4095;

/// The maximum length of all names together, in bytes. The names of directories are kept in memory until the end.
const MAX_NAMES: u64 = 128 << 20;

/// Returns whether a name may get this content.
pub(super) type Allow = Box<dyn Fn(&RelativeName, &Content) -> bool + Send>;

/// Applies received entries to a directory.
pub(super) struct Receiver {
    root: Arc<SyncRoot>,
    allow: Allow,
    /// The numbers received so far: bytes of files, entries, and bytes of names.
    bytes: u64,
    entries: u64,
    names: u64,
    max_bytes: u64,
    /// The received part of an incomplete head.
    head: Vec<u8>,
    file: Option<IncompleteFile>,
    /// Modes that directories get at the end. Until then, entries may still be created in them.
    modes: BTreeMap<PathBuf, u32>,
    ended: bool,
}

/// A file that is being received.
struct IncompleteFile {
    name: RelativeName,
    parent: OwnedFd,
    file: File,
    /// The temporary name, on file systems without unnamed files (`O_TMPFILE`).
    temporary_name: Option<OsString>,
    missing: u64,
    mode: u32,
    modified: Timespec,
}

impl Receiver {
    /// Creates a receiver that accepts at most `most_bytes` bytes of files.
    pub fn new(root: Arc<SyncRoot>, allow: Allow, max_bytes: u64) -> Self {
        let (bytes, entries, names, head, modes) = (0, 0, 0, Vec::new(), BTreeMap::new());
        Self { root, allow, bytes, entries, names, max_bytes, head, file: None, modes, ended: false }
    }

    /// Returns true if the end of all entries has been received.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Applies a piece.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), CopyError> {
        while !piece.is_empty() {
            if let Some(mut growing) = self.file.take() {
                let some = usize::try_from(growing.missing).unwrap_or(piece.len()).min(piece.len());
                growing.file.write_all(&piece[..some]).during("write", growing.name.path())?;
                growing.missing -= some as u64;
                piece = &piece[some..];
                self.continue_or_publish(growing)?;
                continue;
            }
            if self.ended {
                return Err(CopyError::Malformed("data after the end of the transfer".to_owned()));
            }
            // Most heads are complete in one piece; others are assembled in `head`.
            let had = self.head.len();
            let next = if had == 0 {
                entry::decode(piece)?
            } else {
                self.head.extend_from_slice(&piece[..piece.len().min(entry::MAX_ENTRY_BYTES)]);
                entry::decode(&self.head)?
            };
            let taken = match next {
                DecodedEntry::Incomplete if had == 0 => {
                    self.head.extend_from_slice(piece);
                    return Ok(());
                }
                DecodedEntry::Incomplete => return Ok(()),
                DecodedEntry::End => {
                    self.ended = true;
                    entry::END.len()
                }
                DecodedEntry::Entry(entry, length) => {
                    self.entry(entry)?;
                    length
                }
            };
            self.head.clear();
            piece = &piece[taken - had..];
        }
        Ok(())
    }

    /// Sets the modes of directories, after everything has been received.
    pub fn finish(mut self) -> Result<(), CopyError> {
        if !self.ended {
            return Err(CopyError::Malformed("the transfer is incomplete".to_owned()));
        }
        self.set_directory_modes()
    }

    /// Sets the modes of directories, innermost first, because the mode of an outer directory may prevent access to an inner one.
    fn set_directory_modes(&mut self) -> Result<(), CopyError> {
        while let Some((path, mode)) = self.modes.pop_last() {
            match tree::directory(&self.root.directory, &path) {
                Ok(directory) => rustix::fs::fchmod(&directory, mode_of(mode, DIRECTORY_BITS)).during("chmod", &path)?,
                // The directory was removed afterwards.
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno).during("open", &path),
            }
        }
        Ok(())
    }

    fn entry(&mut self, Entry { path, what }: Entry) -> Result<(), CopyError> {
        self.entries += 1;
        // Each path may be removed and then created again.
        if self.entries > 2 * MAX_ENTRIES {
            return Err(CopyError::TooMuch { what: "files", max: MAX_ENTRIES });
        }
        self.names += path.len() as u64;
        if self.names > MAX_NAMES {
            return Err(CopyError::TooMuch { what: "bytes of names", max: MAX_NAMES });
        }
        let name = RelativeName::parse(&path)?;
        if !(self.allow)(&name, &what) {
            return Err(CopyError::Forbidden(name.path().to_owned()));
        }
        match what {
            Content::Nothing => self.remove(&name),
            Content::Directory { mode } => self.directory(&name, mode),
            Content::Link { to } => self.link(&name, &to),
            Content::File { mode, modified: (seconds, nanoseconds), size } => {
                self.bytes = self.bytes.saturating_add(size);
                if self.bytes > self.max_bytes {
                    return Err(CopyError::TooMuch { what: "bytes", max: self.max_bytes });
                }
                let modified = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanoseconds.min(999_999_999)) };
                self.file(name, mode, modified, size)
            }
        }
    }

    /// Calls `work` with the parent directory of `name`. If its mode forbids that, the mode is changed temporarily, and restored
    /// at the end: in the guest, root was not subject to the mode.
    fn within<T>(
        &mut self,
        name: &RelativeName,
        call: &'static str,
        work: impl Fn(&OwnedFd) -> Result<T, Errno>,
    ) -> Result<(OwnedFd, T), CopyError> {
        let parent = tree::parent(&self.root.directory, name).during("open the parent directory of", name.path())?;
        let mut done = work(&parent);
        if matches!(done, Err(Errno::ACCESS)) && self.unlock(&parent, name).is_ok() {
            done = work(&parent);
        }
        let done = done.during(call, name.path())?;
        Ok((parent, done))
    }

    fn unlock(&mut self, parent: &OwnedFd, name: &RelativeName) -> Result<(), Errno> {
        let mode = rustix::fs::fstat(parent)?.st_mode & 0o7777;
        rustix::fs::fchmod(parent, mode_of(mode | 0o700, DIRECTORY_BITS))?;
        let path = name.path().parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        self.modes.entry(path.to_owned()).or_insert(mode);
        Ok(())
    }

    /// Removes a file, a link or an empty directory. A directory that is not empty is kept, because it contains something that
    /// the other side does not know.
    fn remove(&mut self, name: &RelativeName) -> Result<(), CopyError> {
        let parent = match tree::parent(&self.root.directory, name) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            parent => parent.during("open the parent directory of", name.path())?,
        };
        let Some(stat) = tree::lstat(&parent, name)? else { return Ok(()) };
        let flags = if FileKind::from_stat(&stat) == Some(FileKind::Directory) { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        let removed = self.within(name, "remove", |parent| match rustix::fs::unlinkat(parent, name.last(), flags) {
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY | Errno::NOENT) => Ok(()),
            removed => removed,
        });
        removed.map(drop)
    }

    fn directory(&mut self, name: &RelativeName, mode: u32) -> Result<(), CopyError> {
        let (parent, made) = self.within(name, "mkdir", |parent| match rustix::fs::mkdirat(parent, name.last(), Mode::RWXU) {
            Err(Errno::EXIST) => Ok(false),
            made => made.map(|()| true),
        })?;
        if !made && tree::lstat(&parent, name)?.and_then(|stat| FileKind::from_stat(&stat)) != Some(FileKind::Directory) {
            return Err(Errno::EXIST).during("mkdir", name.path());
        }
        self.modes.insert(name.path().to_owned(), mode);
        Ok(())
    }

    fn link(&mut self, name: &RelativeName, to: &[u8]) -> Result<(), CopyError> {
        if to.is_empty() || to.contains(&0) || to.len() > MAX_LINK {
            return Err(CopyError::Name {
                path: name.path().to_owned(),
                why: "the target of the link is empty, too long or contains a zero byte",
            });
        }
        let target = std::ffi::OsStr::from_bytes(to);
        let temporary_name = temporary().during("getrandom", name.path())?;
        let (parent, ()) = self.within(name, "symlink", |parent| rustix::fs::symlinkat(target, parent, &temporary_name))?;
        rename(&parent, &temporary_name, name)
    }

    fn file(&mut self, name: RelativeName, mode: u32, modified: Timespec, missing: u64) -> Result<(), CopyError> {
        let temporary_name = temporary().during("getrandom", name.path())?;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let (parent, (file, temporary_name)) = self.within(&name, "create", |parent| {
            let private = Mode::RUSR | Mode::WUSR;
            match rustix::fs::openat(parent, ".", flags | OFlags::TMPFILE, private) {
                // The errors of file systems that do not support unnamed files.
                Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
                    let new = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                    rustix::fs::openat(parent, &temporary_name, new, private).map(|file| (file, Some(temporary_name.clone())))
                }
                opened => opened.map(|file| (file, None)),
            }
        })?;
        self.continue_or_publish(IncompleteFile { name, parent, file: file.into(), temporary_name, missing, mode, modified })
    }

    fn continue_or_publish(&mut self, file: IncompleteFile) -> Result<(), CopyError> {
        if file.missing > 0 {
            self.file = Some(file);
            return Ok(());
        }
        file.publish()
    }
}

impl IncompleteFile {
    /// Sets mode and times, and moves the file to its name.
    fn publish(mut self) -> Result<(), CopyError> {
        let path = self.name.path();
        rustix::fs::fchmod(&self.file, mode_of(self.mode, FILE_BITS)).during("chmod", path)?;
        let times = Timestamps { last_access: self.modified, last_modification: self.modified };
        rustix::fs::futimens(&self.file, &times).during("set the times of", path)?;
        if let Some(temporary_name) = self.temporary_name.take() {
            return rename(&self.parent, &temporary_name, &self.name);
        }
        // The file has no name yet, so it is linked through `/proc` (`linkat(2)`).
        let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let link = |to: &std::ffi::OsStr| rustix::fs::linkat(CWD, &unnamed, &self.parent, to, AtFlags::SYMLINK_FOLLOW);
        match link(self.name.last()) {
            // `linkat(2)` does not replace an existing file.
            Err(Errno::EXIST) => {
                let temporary_name = temporary().during("getrandom", path)?;
                link(&temporary_name).during("link", path)?;
                rename(&self.parent, &temporary_name, &self.name)
            }
            linked => linked.during("link", path),
        }
    }
}

impl Drop for IncompleteFile {
    fn drop(&mut self) {
        if let Some(temporary_name) = &self.temporary_name {
            // If the removal fails, the prefix `.agentd-` shows the origin of the file.
            rustix::fs::unlinkat(&self.parent, temporary_name, AtFlags::empty())
                .or_warn("remove an unfinished file", temporary_name);
        }
    }
}

impl Drop for Receiver {
    /// Restores the modes of directories after an incomplete transfer.
    fn drop(&mut self) {
        // A mode that cannot be restored must not prevent the others.
        while !self.modes.is_empty() {
            self.set_directory_modes().or_warn("restore the modes of directories", "copy");
        }
    }
}

/// Replaces `name` with the temporary file `temporary_name`. Fails if `name` is a directory.
fn rename(parent: &OwnedFd, temporary_name: &OsString, name: &RelativeName) -> Result<(), CopyError> {
    let renamed = rustix::fs::renameat(parent, temporary_name, parent, name.last());
    if renamed.is_err() {
        rustix::fs::unlinkat(parent, temporary_name, AtFlags::empty()).or_debug("remove an unfinished file", temporary_name);
    }
    renamed.during("rename to", name.path())
}

/// Returns a random name.
fn temporary() -> Result<OsString, Errno> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!(".agentd-{:016x}", u64::from_le_bytes(bytes)).into())
}

/// Mode bits that a guest may set on a file. Set-id bits are excluded, because the file would run with the rights of its owner.
const FILE_BITS: u32 = 0o777;

/// Mode bits that a guest may set on a directory. Set-group-id only determines the group of new files (`inode(7)`).
const DIRECTORY_BITS: u32 = 0o3777;

fn mode_of(mode: u32, mask: u32) -> Mode {
    Mode::from_raw_mode(RawMode::from(mode & mask))
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
