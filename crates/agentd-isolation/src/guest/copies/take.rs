//! Takes what is sent, and makes it so. What comes from a guest is hostile until it has passed here: every name is checked, resolved beneath
//! the copied directory and through no link, and asked for whether it may be changed; nothing is removed with what it holds; a file gets its
//! name when it is whole; modes lend nobody's rights; there are bounds.

use super::{
    entry::{self, Entry, Next, What},
    error::{At, CopyError},
    survey::{Kind, MOST_ENTRIES, Root},
    tree::{self, Name},
};
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

/// The longest target of a link that the kernel takes.
const MOST_LINK: usize = 4095;

/// The most bytes of all names: what is known of a directory until the end has its name.
const MOST_NAMES: u64 = 128 << 20;

/// What may come to be where.
pub(super) type Allow = Box<dyn Fn(&Name, &What) -> bool + Send>;

/// See the head of this module.
pub(super) struct Taker {
    root: Arc<Root>,
    allow: Allow,
    /// How many bytes of files have come, how many entries, and how many bytes of their names.
    bytes: u64,
    entries: u64,
    names: u64,
    most_bytes: u64,
    /// What has come of a head.
    head: Vec<u8>,
    file: Option<Growing>,
    /// Modes that directories get at the end, whatever that is: before, something is made in them.
    modes: BTreeMap<PathBuf, u32>,
    ended: bool,
}

/// A file that is not whole yet.
struct Growing {
    name: Name,
    parent: OwnedFd,
    file: File,
    /// What it is called meanwhile, where the file system knows no files without a name.
    called: Option<OsString>,
    owed: u64,
    mode: u32,
    modified: Timespec,
}

impl Taker {
    /// Takes at most so many bytes of files.
    pub fn new(root: Arc<Root>, allow: Allow, most_bytes: u64) -> Self {
        let (bytes, entries, names, head, modes) = (0, 0, 0, Vec::new(), BTreeMap::new());
        Self { root, allow, bytes, entries, names, most_bytes, head, file: None, modes, ended: false }
    }

    /// Whether all has come.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Takes a piece.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), CopyError> {
        while !piece.is_empty() {
            if let Some(mut growing) = self.file.take() {
                let some = usize::try_from(growing.owed).unwrap_or(piece.len()).min(piece.len());
                growing.file.write_all(&piece[..some]).at("write", growing.name.path())?;
                growing.owed -= some as u64;
                piece = &piece[some..];
                self.grow(growing)?;
                continue;
            }
            if self.ended {
                return Err(CopyError::Malformed("bytes after the end".to_owned()));
            }
            // Most heads are whole in one piece; what is not is put together.
            let had = self.head.len();
            let next = if had == 0 {
                entry::decode(piece)?
            } else {
                self.head.extend_from_slice(&piece[..piece.len().min(entry::MOST)]);
                entry::decode(&self.head)?
            };
            let taken = match next {
                Next::Incomplete if had == 0 => {
                    self.head.extend_from_slice(piece);
                    return Ok(());
                }
                Next::Incomplete => return Ok(()),
                Next::End => {
                    self.ended = true;
                    entry::END.len()
                }
                Next::Entry(entry, length) => {
                    self.entry(entry)?;
                    length
                }
            };
            self.head.clear();
            piece = &piece[taken - had..];
        }
        Ok(())
    }

    /// Gives directories their modes, when all has come.
    pub fn finish(mut self) -> Result<(), CopyError> {
        if !self.ended {
            return Err(CopyError::Malformed("it ended before its end".to_owned()));
        }
        self.settle()
    }

    /// Gives directories their modes, the innermost first: the mode of an outer one may end the way to an inner one.
    fn settle(&mut self) -> Result<(), CopyError> {
        while let Some((path, mode)) = self.modes.pop_last() {
            match tree::directory(&self.root.directory, &path) {
                Ok(directory) => rustix::fs::fchmod(&directory, mode_of(mode, 0o1777)).at("chmod", &path)?,
                // It was removed afterwards.
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno).at("open", &path),
            }
        }
        Ok(())
    }

    fn entry(&mut self, Entry { path, what }: Entry) -> Result<(), CopyError> {
        self.entries += 1;
        // Each may be told to be gone, and then to be something else.
        if self.entries > 2 * MOST_ENTRIES {
            return Err(CopyError::TooMuch { what: "files", most: MOST_ENTRIES });
        }
        self.names += path.len() as u64;
        if self.names > MOST_NAMES {
            return Err(CopyError::TooMuch { what: "bytes of names", most: MOST_NAMES });
        }
        let name = Name::parse(&path)?;
        if !(self.allow)(&name, &what) {
            return Err(CopyError::Forbidden(name.path().to_owned()));
        }
        match what {
            What::Nothing => self.remove(&name),
            What::Directory { mode } => self.directory(&name, mode),
            What::Link { to } => self.link(&name, &to),
            What::File { mode, modified: (seconds, nanoseconds), size } => {
                self.bytes = self.bytes.saturating_add(size);
                if self.bytes > self.most_bytes {
                    return Err(CopyError::TooMuch { what: "bytes", most: self.most_bytes });
                }
                let modified = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanoseconds.min(999_999_999)) };
                self.file(name, mode, modified, size)
            }
        }
    }

    /// Does something in the directory that `name` is in. Where its owner may not change that directory, he lets himself, and takes it back at
    /// the end: in the guest, root needs no leave.
    fn within<T>(
        &mut self,
        name: &Name,
        call: &'static str,
        work: impl Fn(&OwnedFd) -> Result<T, Errno>,
    ) -> Result<(OwnedFd, T), CopyError> {
        let parent = tree::parent(&self.root.directory, name).at("open the directory of", name.path())?;
        let mut done = work(&parent);
        if matches!(done, Err(Errno::ACCESS)) && self.unlock(&parent, name).is_ok() {
            done = work(&parent);
        }
        let done = done.at(call, name.path())?;
        Ok((parent, done))
    }

    fn unlock(&mut self, parent: &OwnedFd, name: &Name) -> Result<(), Errno> {
        let mode = rustix::fs::fstat(parent)?.st_mode & 0o7777;
        rustix::fs::fchmod(parent, mode_of(mode | 0o700, 0o1777))?;
        let path = name.path().parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        self.modes.entry(path.to_owned()).or_insert(mode);
        Ok(())
    }

    /// What is not empty stays: there is something in it that the other side does not know of.
    fn remove(&mut self, name: &Name) -> Result<(), CopyError> {
        let parent = match tree::parent(&self.root.directory, name) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            parent => parent.at("open the directory of", name.path())?,
        };
        let Some(stat) = tree::look(&parent, name)? else { return Ok(()) };
        let flags = if Kind::of(&stat) == Some(Kind::Directory) { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        let removed = self.within(name, "remove", |parent| match rustix::fs::unlinkat(parent, name.last(), flags) {
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY | Errno::NOENT) => Ok(()),
            removed => removed,
        });
        removed.map(drop)
    }

    fn directory(&mut self, name: &Name, mode: u32) -> Result<(), CopyError> {
        let (parent, made) = self.within(name, "mkdir", |parent| match rustix::fs::mkdirat(parent, name.last(), Mode::RWXU) {
            Err(Errno::EXIST) => Ok(false),
            made => made.map(|()| true),
        })?;
        if !made && tree::look(&parent, name)?.and_then(|stat| Kind::of(&stat)) != Some(Kind::Directory) {
            return Err(Errno::EXIST).at("mkdir", name.path());
        }
        self.modes.insert(name.path().to_owned(), mode);
        Ok(())
    }

    fn link(&mut self, name: &Name, to: &[u8]) -> Result<(), CopyError> {
        if to.is_empty() || to.contains(&0) || to.len() > MOST_LINK {
            return Err(CopyError::Name { path: name.path().to_owned(), why: "a link to what no link can hold" });
        }
        let target = std::ffi::OsStr::from_bytes(to);
        let called = temporary().at("getrandom", name.path())?;
        let (parent, ()) = self.within(name, "symlink", |parent| rustix::fs::symlinkat(target, parent, &called))?;
        rename(&parent, &called, name)
    }

    fn file(&mut self, name: Name, mode: u32, modified: Timespec, owed: u64) -> Result<(), CopyError> {
        let called = temporary().at("getrandom", name.path())?;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let (parent, (file, called)) = self.within(&name, "make", |parent| {
            let private = Mode::RUSR | Mode::WUSR;
            match rustix::fs::openat(parent, ".", flags | OFlags::TMPFILE, private) {
                // What file systems answer that know no such files.
                Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
                    let new = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                    rustix::fs::openat(parent, &called, new, private).map(|file| (file, Some(called.clone())))
                }
                opened => opened.map(|file| (file, None)),
            }
        })?;
        self.grow(Growing { name, parent, file: file.into(), called, owed, mode, modified })
    }

    fn grow(&mut self, growing: Growing) -> Result<(), CopyError> {
        if growing.owed > 0 {
            self.file = Some(growing);
            return Ok(());
        }
        growing.put()
    }
}

impl Growing {
    /// Gives it its look and its name.
    fn put(mut self) -> Result<(), CopyError> {
        let path = self.name.path();
        rustix::fs::fchmod(&self.file, mode_of(self.mode, 0o777)).at("chmod", path)?;
        let times = Timestamps { last_access: self.modified, last_modification: self.modified };
        rustix::fs::futimens(&self.file, &times).at("set the times of", path)?;
        if let Some(called) = self.called.take() {
            return rename(&self.parent, &called, &self.name);
        }
        // It has no name yet; `linkat(2)` says how it gets one.
        let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let link = |to: &std::ffi::OsStr| rustix::fs::linkat(CWD, &unnamed, &self.parent, to, AtFlags::SYMLINK_FOLLOW);
        match link(self.name.last()) {
            // A name that is taken is not given by a link.
            Err(Errno::EXIST) => {
                let called = temporary().at("getrandom", path)?;
                link(&called).at("link", path)?;
                rename(&self.parent, &called, &self.name)
            }
            linked => linked.at("link", path),
        }
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        if let Some(called) = &self.called {
            // Whoever sees what is left knows whose it is.
            rustix::fs::unlinkat(&self.parent, called, AtFlags::empty()).ok();
        }
    }
}

impl Drop for Taker {
    /// What was opened for what did not come to its end is closed again.
    fn drop(&mut self) {
        // One that cannot be is no reason to leave the others.
        while !self.modes.is_empty() {
            self.settle().ok();
        }
    }
}

/// Puts what is called so in the place of what has the name: never of a directory.
fn rename(parent: &OwnedFd, called: &OsString, name: &Name) -> Result<(), CopyError> {
    let renamed = rustix::fs::renameat(parent, called, parent, name.last());
    if renamed.is_err() {
        rustix::fs::unlinkat(parent, called, AtFlags::empty()).ok();
    }
    renamed.at("put", name.path())
}

/// A name that nobody has.
fn temporary() -> Result<OsString, Errno> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!(".agentd-{:016x}", u64::from_le_bytes(bytes)).into())
}

fn mode_of(mode: u32, mask: u32) -> Mode {
    Mode::from_raw_mode(RawMode::from(mode & mask))
}

#[cfg(test)]
#[path = "take_tests.rs"]
mod tests;
