//! Removes a tree that a payload or an archive created. No symbolic link is followed. A directory whose mode refuses access to
//! its owner is made accessible first. A directory that is nested too deeply is first moved to the top of the tree.

use crate::directory::{lstat, names};
use rustix::{
    fs::{AtFlags, Mode, OFlags, RawMode, RenameFlags},
    io::Errno,
};
use std::{
    ffi::OsStr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

/// Maximum recursion depth, which also bounds the number of directories open at once.
const MAX_DEPTH: u32 = 32;

/// Removes `name` in `parent`: a file of any type, or a directory with its contents. A missing name is not an error.
///
/// # Errors
/// The errno of the first operation that failed.
pub fn erase(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    if unlink(parent, name)? {
        return Ok(());
    }
    empty(&enter(parent, name)?)?;
    remove_directory(parent, name)
}

/// Removes the contents of `directory`.
///
/// # Errors
/// The errno of the first operation that failed.
pub fn empty(directory: &OwnedFd) -> Result<(), Errno> {
    let mut top = TopDirectory { directory, moved: 0 };
    loop {
        let before = top.moved;
        top.clear(directory, 0)?;
        if top.moved == before {
            return Ok(());
        }
    }
}

/// The top of the tree, to which directories that are nested too deeply are moved.
struct TopDirectory<'a> {
    directory: &'a OwnedFd,
    moved: u64,
}

impl TopDirectory<'_> {
    fn clear(&mut self, directory: &OwnedFd, depth: u32) -> Result<(), Errno> {
        for name in names(directory.as_fd())? {
            if unlink(directory.as_fd(), &name)? {
                continue;
            }
            let child = enter(directory.as_fd(), &name)?;
            if depth == MAX_DEPTH {
                self.take(directory, &name)?;
            } else {
                self.clear(&child, depth + 1)?;
                remove_directory(directory.as_fd(), &name)?;
            }
        }
        Ok(())
    }

    /// Moves a directory to the top, where the next round removes it.
    fn take(&mut self, directory: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
        loop {
            self.moved += 1;
            let free = format!("moved-{}", self.moved);
            match rustix::fs::renameat_with(directory, name, self.directory, free, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                other => return other,
            }
        }
    }
}

/// Removes `name` if it is not a directory. Returns true if the name no longer exists, false if it is a directory.
fn unlink(parent: BorrowedFd<'_>, name: &OsStr) -> Result<bool, Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        // Linux fails with EISDIR for a directory, POSIX specifies EPERM (`man 2 unlink`).
        Err(Errno::ISDIR | Errno::PERM) if lstat(parent, name)?.is_some() => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn remove_directory(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Opens a directory so that it can be emptied. The mode may be changed for that, because the directory is removed afterwards.
fn enter(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(parent, name, flags | OFlags::PATH, Mode::empty())?;
    let needed = RawMode::from(Mode::RWXU.bits());
    if rustix::fs::fstat(&handle)?.st_mode & needed != needed {
        // The mode is changed through the descriptor, because the name may refer to another file by now. `fchmod` refuses a
        // descriptor opened with `O_PATH`.
        match rustix::fs::chmod(format!("/proc/self/fd/{}", handle.as_raw_fd()), Mode::RWXU) {
            // `/proc` is missing while a sandbox's root is being built; this process may then be privileged enough to enter
            // anyway.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    rustix::fs::openat(&handle, ".", flags | OFlags::RDONLY, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    #[test]
    fn erase_removes_tree_but_not_link_targets() {
        let place = tempfile::tempdir().unwrap();
        let tree = place.path().join("tree");
        fs::create_dir_all(tree.join("closed/inner")).unwrap();
        fs::write(tree.join("closed/inner/file"), "").unwrap();
        fs::create_dir(place.path().join("kept")).unwrap();
        fs::write(place.path().join("kept/file"), "kept").unwrap();
        std::os::unix::fs::symlink("../kept", tree.join("link")).unwrap();
        fs::set_permissions(tree.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();

        let parent = fs::File::open(place.path()).unwrap();
        erase(parent.as_fd(), OsStr::new("tree")).unwrap();
        erase(parent.as_fd(), OsStr::new("tree")).unwrap();
        assert!(!tree.exists());
        assert_eq!(fs::read_to_string(place.path().join("kept/file")).unwrap(), "kept");
    }

    #[test]
    fn erase_of_3000_nested_directories_succeeds() {
        let place = tempfile::tempdir().unwrap();
        let root: OwnedFd = fs::File::open(place.path()).unwrap().into();
        let mut at = root.try_clone().unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "d", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        erase(root.as_fd(), OsStr::new("d")).unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
