//! Trees that a payload made, read without trusting them. A directory is opened by `openat2` (`man 2 openat2`) beneath the root of its
//! tree and through no link, and what is in it is named relative to it; so no name leads out, also while somebody changes the tree.
//! Nothing here recurses as deep as a tree is, nor holds more descriptors for a deep one: a payload chooses how deep that is.

mod attributes;
mod compare;
mod copy;
mod merge;
mod stack;

pub(crate) use agentd_disk::{empty, look, names};
pub(crate) use attributes::{Dress, dress_like, dress_of};
pub use compare::{Change, Kind};
pub(crate) use compare::{Stacks, compare};
pub(crate) use copy::copy;
pub(crate) use merge::merge;

use crate::error::{Doing as _, StateError};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, RawMode, ResolveFlags, Stat},
    io::Errno,
};
use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const HANDLE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// How much of a path is given to one call: less than `PATH_MAX`.
const STRETCH: usize = 3000;

/// The root of a tree.
pub(crate) struct Tree {
    root: OwnedFd,
    /// Where it is, for what is said of it.
    pub(crate) path: PathBuf,
}

impl Tree {
    /// Opens the tree whose root is the directory `path`, which is the caller's own.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        let root = rustix::fs::openat(CWD, path, DIRECTORY & !OFlags::NOFOLLOW, Mode::empty()).doing("open", path)?;
        Ok(Self { root, path: path.to_owned() })
    }

    /// Opens a directory of the tree, so that it can be listed and what is in it used.
    pub(crate) fn enter(&self, at: &Path) -> Result<Entered, Errno> {
        if !at.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(Errno::INVAL);
        }
        match self.reach(at) {
            Ok(fd) if rustix::process::geteuid().is_root() || allows(&rustix::fs::fstat(&fd)?, Mode::RUSR | Mode::XUSR) => {
                Ok(Entered { fd, unlocked: Vec::new() })
            }
            Ok(_) | Err(Errno::ACCESS) => self.unlock(at),
            Err(errno) => Err(errno),
        }
    }

    /// Opens a directory where every directory on the way allows it.
    fn reach(&self, at: &Path) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let open = |from: &OwnedFd, stretch: &Path| rustix::fs::openat2(from, stretch, DIRECTORY, Mode::empty(), resolve);
        let mut reached = None;
        let mut stretch = PathBuf::from(".");
        for name in at {
            if stretch.as_os_str().len() + name.len() > STRETCH {
                reached = Some(open(reached.as_ref().unwrap_or(&self.root), &stretch)?);
                stretch = PathBuf::from(".");
            }
            stretch.push(name);
        }
        open(reached.as_ref().unwrap_or(&self.root), &stretch)
    }

    /// Opens a directory past such as their owner may not enter. Root needs no permission; another user has no way but to change the
    /// mode for as long as it is looked at.
    fn unlock(&self, at: &Path) -> Result<Entered, Errno> {
        let mut unlocked = Vec::new();
        let mut current = rustix::fs::openat(&self.root, ".", HANDLE | OFlags::DIRECTORY, Mode::empty())?;
        for name in std::iter::once(OsStr::new(".")).chain(at) {
            current = rustix::fs::openat(&current, name, HANDLE | OFlags::DIRECTORY, Mode::empty())?;
            unlocked.extend(Unlocked::new(&current, Mode::RUSR | Mode::XUSR)?);
        }
        let fd = rustix::fs::openat(&current, ".", DIRECTORY, Mode::empty())?;
        Ok(Entered { fd, unlocked })
    }
}

/// A directory that was opened to be used.
pub(crate) struct Entered {
    fd: OwnedFd,
    #[expect(dead_code, reason = "held, not used: dropped, they lock again what was locked")]
    unlocked: Vec<Unlocked>,
}

impl AsFd for Entered {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A file or directory whose owner may do with it what its mode forbids, until this is dropped.
pub(crate) struct Unlocked {
    handle: OwnedFd,
    mode: Mode,
}

impl Unlocked {
    /// Allows the owner `needed`; `None` where the mode allows that already.
    fn new(file: &OwnedFd, needed: Mode) -> Result<Option<Self>, Errno> {
        let stat = rustix::fs::fstat(file)?;
        if allows(&stat, needed) {
            return Ok(None);
        }
        let mode = Mode::from_raw_mode(stat.st_mode);
        let handle = rustix::io::fcntl_dupfd_cloexec(file, 0)?;
        // By the descriptor, not by a name that may be another file's by now. `fchmod` refuses one opened with `O_PATH`.
        rustix::fs::chmod(of_descriptor(file.as_fd()), mode | needed)?;
        Ok(Some(Self { handle, mode }))
    }
}

impl Drop for Unlocked {
    fn drop(&mut self) {
        let _ = rustix::fs::chmod(of_descriptor(self.handle.as_fd()), self.mode);
    }
}

/// A regular file that was opened to be read.
pub(crate) struct Readable {
    pub(crate) fd: OwnedFd,
    #[expect(dead_code, reason = "held, not used: dropped, it locks again what was locked")]
    unlocked: Option<Unlocked>,
}

/// Opens the regular file `name` in `directory`; `None` when it is not, or no longer, one.
pub(crate) fn read(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Readable>, Errno> {
    let handle = match rustix::fs::openat(directory, name, HANDLE, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        other => other?,
    };
    if kind(&rustix::fs::fstat(&handle)?) != FileType::RegularFile {
        return Ok(None);
    }
    let unlocked = if rustix::process::geteuid().is_root() { None } else { Unlocked::new(&handle, Mode::RUSR)? };
    let fd = rustix::fs::open(of_descriptor(handle.as_fd()), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(Some(Readable { fd, unlocked }))
}

/// Lets an ordinary user read the attributes of his directory `name`, until what this gives is dropped.
fn unlock_directory(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Unlocked>, Errno> {
    unlock(directory, name, Mode::RUSR | Mode::XUSR)
}

/// Likewise of his file.
fn unlock_file(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Unlocked>, Errno> {
    unlock(directory, name, Mode::RUSR)
}

fn unlock(directory: BorrowedFd<'_>, name: &OsStr, needed: Mode) -> Result<Option<Unlocked>, Errno> {
    if rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let handle = rustix::fs::openat(directory, name, HANDLE, Mode::empty())?;
    // A mode is never given to what a link leads to: the kernel refuses to change that of a link.
    Unlocked::new(&handle, needed)
}

/// The type of what was looked at.
pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Whether this is overlayfs' mark that nothing of the layers below is here: a character device 0:0
/// (`Documentation/filesystems/overlayfs.rst`). The other kind, an empty file with the attribute `overlay.whiteout`, overlayfs reads but
/// never makes, and a payload cannot.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    kind(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn allows(stat: &Stat, needed: Mode) -> bool {
    stat.st_mode & RawMode::from(needed.bits()) == RawMode::from(needed.bits())
}

/// A path that leads to an open file, whatever has its name now (`man 5 proc_pid_fd`).
fn of_descriptor(file: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Where `name` in `directory` is, for calls that take no descriptor. Its last part is no link of `/proc`.
fn in_descriptor(directory: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    of_descriptor(directory).join(OsStr::from_bytes(name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn no_name_leads_out_of_a_tree() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join("out/inner")).unwrap();
        fs::create_dir_all(place.path().join("tree/own")).unwrap();
        let root = place.path().join("tree");
        symlink("../out", root.join("link")).unwrap();
        symlink("own", root.join("inside")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        let tree = Tree::open(&root).unwrap();
        assert!(tree.enter(Path::new("own")).is_ok());
        for name in ["link", "link/inner", "inside", "magic", "..", "own/../../out", "/"] {
            assert!(tree.enter(Path::new(name)).is_err(), "{name}");
        }
        // Each of the two ways keeps inside by itself.
        for name in ["link", "link/inner", "inside", "magic"] {
            assert!(tree.reach(Path::new(name)).is_err() && tree.unlock(Path::new(name)).is_err(), "{name}");
        }
    }

    #[test]
    fn only_a_regular_file_is_read() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("file"), "").unwrap();
        symlink("file", place.path().join("link")).unwrap();
        rustix::fs::mknodat(CWD, place.path().join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let tree = Tree::open(place.path()).unwrap();
        let is_read = |name: &str| read(tree.root.as_fd(), OsStr::new(name)).unwrap().is_some();
        assert_eq!(["file", "link", "fifo", "nothing"].map(is_read), [true, false, false, false]);
    }
}
