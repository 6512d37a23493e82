//! Mount trees: cloning, restricting and attaching (`open_tree(2)`, `mount_setattr(2)`, `move_mount(2)`), and bind mounts. All
//! errors carry the errno of the failed call.

use crate::{ErrnoContext, syscall};
use agentd_core::{Access, Control, ControlError};
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags},
    io::Errno,
    mount::{MoveMountFlags, OpenTreeFlags},
};
use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

/// Attributes of every mount of the host that is shown: no set-user-id programs and no devices (`mount(2)`).
pub const SHOWN: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;

/// [`SHOWN`], and read-only.
pub const READ_ONLY: u64 = SHOWN | libc::MOUNT_ATTR_RDONLY;

/// Returns the mount attributes of a grant.
pub fn attributes(access: Access) -> u64 {
    match access {
        Access::ReadOnly => READ_ONLY,
        Access::ReadWrite | Access::CopyOnWrite => SHOWN,
    }
}

/// Clones the mount tree at `path`, which must not contain symbolic links, as a detached tree.
pub(crate) fn clone_tree(path: &Path) -> Result<OwnedFd, ControlError> {
    let at = open_beneath(CWD, path, OFlags::PATH).during(Control::Mounts, || format!("open {}", path.display()))?;
    clone_at(at.as_fd(), path)
}

/// Clones the mount tree that `at` refers to, as a detached tree. `path` names the tree in errors.
pub(super) fn clone_at(at: rustix::fd::BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, ControlError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    rustix::mount::open_tree(at, c"", flags).during(Control::Mounts, || format!("open_tree {}", path.display()))
}

/// Binds the one mount of `source` to `target` (`mount(2)`, `MS_BIND`). For paths in which only root or the sandbox being created
/// can put a link. Takes a third of the system calls of a detached tree.
pub fn show(source: &Path, target: &Path) -> Result<(), ControlError> {
    rustix::mount::mount_bind(source, target)
        .during(Control::Mounts, || format!("bind {} on {}", source.display(), target.display()))
}

/// Binds `source` and the mounts below it to `target`; otherwise like [`show`].
pub fn show_all(source: &Path, target: &Path) -> Result<(), ControlError> {
    rustix::mount::mount_bind_recursive(source, target)
        .during(Control::Mounts, || format!("bind {} with its submounts on {}", source.display(), target.display()))
}

/// Binds `source` to `target` if `target` exists; otherwise like [`show`].
pub fn cover(source: &Path, target: &Path) -> Result<(), ControlError> {
    match rustix::mount::mount_bind(source, target) {
        Err(Errno::NOENT) => Ok(()),
        shown => shown.during(Control::Mounts, || format!("cover {}", target.display())),
    }
}

/// Clones the one mount of `source`, as a detached tree. The restriction on paths of [`show`] applies.
pub fn clone_own(source: &Path) -> Result<OwnedFd, ControlError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    rustix::mount::open_tree(CWD, source, flags).during(Control::Mounts, || format!("open_tree {}", source.display()))
}

/// Clones the mount of `source` and the mounts below it; otherwise like [`clone_own`].
pub fn clone_own_all(source: &Path) -> Result<OwnedFd, ControlError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW
        | OpenTreeFlags::AT_RECURSIVE;
    rustix::mount::open_tree(CWD, source, flags).during(Control::Mounts, || format!("open_tree {}", source.display()))
}

/// Attaches a detached tree at `target`. The restriction on paths of [`show`] applies.
pub fn attach_own(tree: &OwnedFd, target: &Path) -> Result<(), ControlError> {
    rustix::mount::move_mount(tree, c"", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .during(Control::Mounts, || format!("move_mount onto {}", target.display()))
}

/// Attaches a detached tree at `relative` below `root`. `target` names the place in errors. The restriction on paths of [`show`]
/// applies.
pub fn attach_below(tree: &OwnedFd, root: &OwnedFd, relative: &Path, target: &Path) -> Result<(), ControlError> {
    rustix::mount::move_mount(tree, c"", root, relative, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .during(Control::Mounts, || format!("move_mount onto {}", target.display()))
}

/// Opens `path`, no component of which may be a symbolic link (`openat2(2)`). With `O_PATH` and without `O_DIRECTORY`, the call
/// opens a symbolic link in the last component itself, because `O_NOFOLLOW` is set.
pub fn open_beneath<Fd: AsFd>(dir: Fd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(dir, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), resolve)
}

/// Attaches a detached tree at `target`, which must not contain symbolic links.
pub fn attach(tree: OwnedFd, target: &Path) -> Result<(), ControlError> {
    let place = open_beneath(CWD, target, OFlags::PATH).during(Control::Mounts, || format!("open {}", target.display()))?;
    attach_at(&tree, &place, target)
}

/// Attaches a detached tree on the object that `place` refers to. `target` names the place in errors.
pub fn attach_at(tree: &OwnedFd, place: &OwnedFd, target: &Path) -> Result<(), ControlError> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree, c"", place, c"", flags)
        .during(Control::Mounts, || format!("move_mount onto {}", target.display()))
}

/// Sets mount attributes, e.g. `MOUNT_ATTR_RDONLY`, on the mount of `tree` and all mounts below. `path` names the tree in errors.
pub fn restrict(tree: &OwnedFd, attributes: u64, path: &Path) -> Result<(), ControlError> {
    syscall::mounts::mount_setattr(tree.as_fd(), true, attributes, None)
        .during(Control::Mounts, || format!("mount_setattr {attributes:#x} for {}", path.display()))
}

/// Sets mount attributes on the mount at `path` and all mounts below.
pub fn restrict_all(path: &Path, attributes: u64) -> Result<(), ControlError> {
    let at = open_beneath(CWD, path, OFlags::PATH).during(Control::Mounts, || format!("open {}", path.display()))?;
    restrict(&at, attributes, path)
}

/// Sets mount attributes on the one mount at `path`.
pub fn restrict_one(path: &Path, attributes: u64) -> Result<(), ControlError> {
    let at = open_beneath(CWD, path, OFlags::PATH).during(Control::Mounts, || format!("open {}", path.display()))?;
    syscall::mounts::mount_setattr(at.as_fd(), false, attributes, None)
        .during(Control::Mounts, || format!("mount_setattr {attributes:#x} for {}", path.display()))
}

/// Makes each directory from below `root` to `root/relative` a mount point, so that none of them can be renamed and replaced.
pub fn pin(root: &Path, relative: &Path) -> Result<(), ControlError> {
    let mut path = PathBuf::from(root);
    for part in relative.components() {
        path.push(part);
        let at = open_beneath(CWD, &path, OFlags::PATH).during(Control::Mounts, || format!("open {}", path.display()))?;
        pin_one(&at, &path)?;
    }
    Ok(())
}

/// Makes the object that `at` refers to a mount point, unless it is one already (`statx(2)`, `STATX_ATTR_MOUNT_ROOT`). Otherwise,
/// each call would clone all mounts below, and so double their number.
fn pin_one(at: &OwnedFd, path: &Path) -> Result<(), ControlError> {
    let stat = rustix::fs::statx(at, c"", AtFlags::EMPTY_PATH, StatxFlags::empty())
        .during(Control::Mounts, || format!("statx {}", path.display()))?;
    if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Ok(());
    }
    attach(clone_at(at.as_fd(), path)?, path)
}

/// Makes `root/relative` read-only if it exists. Each directory on the way becomes a mount point; see [`pin`]. Symbolic links are
/// skipped, with a note.
pub fn protect(root: &Path, relative: &Path, notes: &mut Vec<String>) -> Result<(), ControlError> {
    let mut path = PathBuf::from(root);
    let parts: Vec<_> = relative.components().collect();
    for (index, part) in parts.iter().enumerate() {
        path.push(part);
        let at = match open_beneath(CWD, &path, OFlags::PATH) {
            Ok(at) => at,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(Errno::LOOP) => {
                notes.push(format!("{} is a symbolic link and was not made read-only", path.display()));
                return Ok(());
            }
            Err(errno) => {
                return Err(ControlError::new(Control::Mounts, format!("open {}", path.display()), Some(errno.raw_os_error())));
            }
        };
        // `open_beneath` opens a symbolic link in the last component itself (`O_PATH` with `O_NOFOLLOW`).
        let kind = rustix::fs::fstat(&at).during(Control::Mounts, || format!("stat {}", path.display()))?;
        if rustix::fs::FileType::from_raw_mode(kind.st_mode).is_symlink() {
            notes.push(format!("{} is a symbolic link and was not made read-only", path.display()));
            return Ok(());
        }
        if index + 1 < parts.len() {
            pin_one(&at, &path)?;
        } else {
            let tree = clone_at(at.as_fd(), &path)?;
            restrict(&tree, READ_ONLY, &path)?;
            attach(tree, &path)?;
        }
    }
    Ok(())
}
