//! Identity of host files and directories. A path is resolved once. If the object must be opened again later, or in another mount
//! namespace, the newly opened object is compared with the resolved one.
//!
//! The original descriptor cannot be used in another mount namespace: `open_tree(2)` refuses it there (`EINVAL`).

use crate::syscall;
use agentd_core::{Control, ControlError, ObjectId};
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::{Path, PathBuf},
};

/// Flags for opening a path for its identity only: without read or write access, so that opening a device or a FIFO has no side
/// effects.
const PATH_ONLY: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// Returns the identity of the object that `fd` refers to.
///
/// # Errors
/// The errno of `statx(2)` or `fstatfs(2)`.
pub fn id(fd: BorrowedFd<'_>) -> Result<ObjectId, Errno> {
    let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::BTIME)?;
    let born = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    Ok(ObjectId {
        handle: syscall::files::file_handle(fd),
        filesystem: syscall::files::filesystem_id(fd)?,
        device: (stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        born: born.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)),
    })
}

/// Returns the path of the object that `fd` refers to, relative to the root of this process. The path may change after the call.
///
/// # Errors
/// `ENOENT` if the object was removed, or if no path below the root of this process leads to it.
pub fn path(fd: BorrowedFd<'_>) -> Result<PathBuf, Errno> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let target = rustix::fs::readlinkat(CWD, link, Vec::new())?.into_bytes();
    // The kernel appends " (deleted)" to a removed name (`proc_pid_fd(5)`), and prefixes "(unreachable)" to a path outside the
    // root.
    if target.first() != Some(&b'/') || target.ends_with(b" (deleted)") && rustix::fs::fstat(fd)?.st_nlink == 0 {
        return Err(Errno::NOENT);
    }
    Ok(OsString::from_vec(target).into())
}

/// Opens the object at `path`, no component of which may be a symbolic link.
///
/// `O_NOFOLLOW` is not set: combined with `O_PATH`, that flag would open a link in the last component instead of failing.
///
/// # Errors
/// `ELOOP` for a symbolic link, or another errno of `openat2(2)`.
pub fn open(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(CWD, path, PATH_ONLY, Mode::empty(), ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS)
}

/// Opens the object at `path`, in this process's mount namespace, if it is the object that was `granted`.
///
/// # Errors
/// If another object or a symbolic link is at `path`, or if the object cannot be opened.
pub fn reopen(path: &Path, granted: &ObjectId) -> Result<OwnedFd, ControlError> {
    check(path, open(path), granted)
}

/// Opens the entry `name` of `directory` if it is the object that was `granted`. `path` names the directory in errors.
///
/// # Errors
/// If another object or a symbolic link has that name, or if the object cannot be opened.
pub fn reopen_in(directory: &OwnedFd, path: &Path, name: &OsStr, granted: &ObjectId) -> Result<OwnedFd, ControlError> {
    let opened =
        rustix::fs::openat2(directory, name, PATH_ONLY, Mode::empty(), ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH);
    check(&path.join(name), opened, granted)
}

fn check(path: &Path, opened: Result<OwnedFd, Errno>, granted: &ObjectId) -> Result<OwnedFd, ControlError> {
    let changed = |now: &str, errno: Option<Errno>| {
        let call = format!("open {}: {now}, but {granted} was granted", path.display());
        let errno = errno.map(|errno| errno.raw_os_error());
        ControlError::new(Control::Grants, call, errno)
            .remedy("find out which program changes this path, then run the command again")
    };
    let opened = opened.map_err(|errno| match errno {
        Errno::LOOP => changed("the path is now a symbolic link", Some(errno)),
        errno => changed("the path cannot be opened", Some(errno)),
    })?;
    let now = id(opened.as_fd()).map_err(|errno| changed("the object cannot be identified", Some(errno)))?;
    if now.is_same(granted) { Ok(opened) } else { Err(changed(&format!("the path now leads to {now}"), None)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_grant_fails_as_grants_control() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        let [granted, other] = ["granted", "other"].map(|name| place.join(name));
        std::fs::create_dir(&granted).unwrap();
        std::fs::create_dir(&other).unwrap();
        let object = id(open(&granted).unwrap().as_fd()).unwrap();
        reopen(&granted, &object).unwrap();
        std::fs::rename(&granted, place.join("moved")).unwrap();
        let control = || reopen(&granted, &object).unwrap_err().control;
        assert_eq!(control(), Control::Grants, "the path does not exist");
        std::os::unix::fs::symlink("moved", &granted).unwrap();
        assert_eq!(control(), Control::Grants, "the path is a link to the same object");
        std::fs::remove_file(&granted).unwrap();
        std::fs::rename(&other, &granted).unwrap();
        assert_eq!(control(), Control::Grants, "the path is another directory");
    }
}
