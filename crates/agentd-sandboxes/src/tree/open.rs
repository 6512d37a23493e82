//! Opens directories and files of a tree, confined to it.

use crate::error::StoreError;
use agentd_disk::FileContext as _;
use agentd_log::LogFailure as _;
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
/// Maximum length of the part of a path that one call resolves, in bytes; less than `PATH_MAX`.
const MAX_PART_BYTES: usize = 3000;

/// A tree, opened at its root.
pub(crate) struct Tree {
    pub(super) root: OwnedFd,
    /// The path of the root, for error messages.
    pub(crate) path: PathBuf,
}

impl Tree {
    /// Opens the tree whose root is the directory `path`, which belongs to the caller.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let root = rustix::fs::openat(CWD, path, DIRECTORY & !OFlags::NOFOLLOW, Mode::empty()).during("open", path)?;
        Ok(Self { root, path: path.to_owned() })
    }

    /// Opens a directory of the tree, so that it can be listed and its entries accessed.
    pub(crate) fn enter(&self, at: &Path) -> Result<OpenDirectory, Errno> {
        if !at.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(Errno::INVAL);
        }
        match self.reach(at) {
            Ok(fd) if rustix::process::geteuid().is_root() || allows(&rustix::fs::fstat(&fd)?, Mode::RUSR | Mode::XUSR) => {
                Ok(OpenDirectory { fd, unlocked: Vec::new() })
            }
            Ok(_) | Err(Errno::ACCESS) => self.unlock(at),
            Err(errno) => Err(errno),
        }
    }

    /// Opens a directory if the modes of all directories on the way permit it.
    fn reach(&self, at: &Path) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let open = |from: &OwnedFd, stretch: &Path| rustix::fs::openat2(from, stretch, DIRECTORY, Mode::empty(), resolve);
        let mut reached = None;
        let mut stretch = PathBuf::from(".");
        for name in at {
            if stretch.as_os_str().len() + name.len() > MAX_PART_BYTES {
                reached = Some(open(reached.as_ref().unwrap_or(&self.root), &stretch)?);
                stretch = PathBuf::from(".");
            }
            stretch.push(name);
        }
        open(reached.as_ref().unwrap_or(&self.root), &stretch)
    }

    /// Opens a directory below directories whose modes deny access to their owner. Root needs no permission. Any other user must
    /// change the modes until the returned value is dropped.
    fn unlock(&self, at: &Path) -> Result<OpenDirectory, Errno> {
        let mut unlocked = Vec::new();
        let mut current = rustix::fs::openat(&self.root, ".", HANDLE | OFlags::DIRECTORY, Mode::empty())?;
        for name in std::iter::once(OsStr::new(".")).chain(at) {
            current = rustix::fs::openat(&current, name, HANDLE | OFlags::DIRECTORY, Mode::empty())?;
            unlocked.extend(Unlocked::new(&current, Mode::RUSR | Mode::XUSR)?);
        }
        let fd = rustix::fs::openat(&current, ".", DIRECTORY, Mode::empty())?;
        Ok(OpenDirectory { fd, unlocked })
    }
}

/// An open directory of a tree.
pub(crate) struct OpenDirectory {
    fd: OwnedFd,
    #[expect(dead_code, reason = "owned only for their destructors, which restore the file modes")]
    unlocked: Vec<Unlocked>,
}

impl AsFd for OpenDirectory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A file or directory whose mode grants additional rights to its owner, until this is dropped.
pub(crate) struct Unlocked {
    handle: OwnedFd,
    mode: Mode,
}

impl Unlocked {
    /// Grants `needed` to the owner; `None` if the mode already does.
    fn new(file: &OwnedFd, needed: Mode) -> Result<Option<Self>, Errno> {
        let stat = rustix::fs::fstat(file)?;
        if allows(&stat, needed) {
            return Ok(None);
        }
        let mode = Mode::from_raw_mode(stat.st_mode);
        let handle = rustix::io::fcntl_dupfd_cloexec(file, 0)?;
        // The mode is changed through the descriptor, because the name may refer to another file by now. `fchmod` refuses a
        // descriptor opened with `O_PATH`.
        rustix::fs::chmod(of_descriptor(file.as_fd()), mode | needed)?;
        Ok(Some(Self { handle, mode }))
    }
}

impl Drop for Unlocked {
    fn drop(&mut self) {
        rustix::fs::chmod(of_descriptor(self.handle.as_fd()), self.mode).or_warn("restore file mode", self.mode);
    }
}

/// A regular file that is open for reading.
pub(crate) struct Readable {
    pub(crate) fd: OwnedFd,
    #[expect(dead_code, reason = "owned only for its destructor, which restores the file mode")]
    unlocked: Option<Unlocked>,
}

/// Opens the regular file `name` in `directory`; `None` if the name does not exist or is not a regular file.
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

/// Lets an unprivileged user read the attributes of the directory `name`, until the returned value is dropped.
pub(super) fn unlock_directory(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Unlocked>, Errno> {
    unlock(directory, name, Mode::RUSR | Mode::XUSR)
}

/// Lets an unprivileged user read the attributes of the file `name`, until the returned value is dropped.
pub(super) fn unlock_file(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Unlocked>, Errno> {
    unlock(directory, name, Mode::RUSR)
}

fn unlock(directory: BorrowedFd<'_>, name: &OsStr, needed: Mode) -> Result<Option<Unlocked>, Errno> {
    if rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let handle = rustix::fs::openat(directory, name, HANDLE, Mode::empty())?;
    // If `name` is a symbolic link, its target is not changed: the kernel refuses to change the mode of a link.
    Unlocked::new(&handle, needed)
}

/// Returns the file type in `stat`.
pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Returns true for an overlayfs whiteout, a character device 0:0 that hides the name in the layers below
/// (`Documentation/filesystems/overlayfs.rst`). The other form, an empty file with the attribute `overlay.whiteout`, is read by
/// overlayfs but never created by it, and a payload cannot create one.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    kind(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn allows(stat: &Stat, needed: Mode) -> bool {
    stat.st_mode & RawMode::from(needed.bits()) == RawMode::from(needed.bits())
}

/// Returns a path to an open file that stays valid if the file is renamed (`man 5 proc_pid_fd`).
fn of_descriptor(file: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Returns a path to `name` in `directory`, for calls that take no descriptor. The path ends in `name`, so calls that do not
/// follow the last component do not act on a magic link of `/proc`.
pub(super) fn in_descriptor(directory: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    of_descriptor(directory).join(OsStr::from_bytes(name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn names_outside_tree_are_refused() {
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
        // Each of the two methods is confined on its own.
        for name in ["link", "link/inner", "inside", "magic"] {
            assert!(tree.reach(Path::new(name)).is_err() && tree.unlock(Path::new(name)).is_err(), "{name}");
        }
    }

    #[test]
    fn read_opens_only_regular_files() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("file"), "").unwrap();
        symlink("file", place.path().join("link")).unwrap();
        rustix::fs::mknodat(CWD, place.path().join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let tree = Tree::open(place.path()).unwrap();
        let is_read = |name: &str| read(tree.root.as_fd(), OsStr::new(name)).unwrap().is_some();
        assert_eq!(["file", "link", "fifo", "nothing"].map(is_read), [true, false, false, false]);
    }
}
