//! Detached mount trees (`open_tree(2)`, `move_mount(2)`, `mount_setattr(2)`).

use crate::{At, syscall};
use agentd_core::{Access, Layer, LayerError};
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags},
    io::Errno,
    mount::{MoveMountFlags, OpenTreeFlags},
};
use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

/// What holds for everything of the host's that is shown: no program changes its ids there, and no device is one (`mount(2)`).
pub const SHOWN: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;

/// The same, and nothing can be changed.
pub const READ_ONLY: u64 = SHOWN | libc::MOUNT_ATTR_RDONLY;

/// The attributes of a grant.
pub fn attributes(access: Access) -> u64 {
    match access {
        Access::ReadOnly => READ_ONLY,
        Access::ReadWrite => SHOWN,
    }
}

/// A detached copy of the mount tree at `path`, which must not contain symbolic links.
pub fn clone_tree(path: &Path) -> Result<OwnedFd, LayerError> {
    let at = open_beneath(CWD, path, OFlags::PATH).at(Layer::Mounts, || format!("open {}", path.display()))?;
    clone_at(at.as_fd(), path)
}

fn clone_at(at: rustix::fd::BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, LayerError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    rustix::mount::open_tree(at, c"", flags).at(Layer::Mounts, || format!("open_tree {}", path.display()))
}

/// Shows the one mount that `source` is on at `target` too (`mount(2)`, `MS_BIND`): for paths below which nobody but root, or the
/// sandbox being made, can put a link. It takes a third of the system calls of a detached tree.
pub fn show(source: &Path, target: &Path) -> Result<(), LayerError> {
    rustix::mount::mount_bind(source, target).at(Layer::Mounts, || format!("bind {} on {}", source.display(), target.display()))
}

/// As [`show`], with the mounts below it.
pub fn show_all(source: &Path, target: &Path) -> Result<(), LayerError> {
    rustix::mount::mount_bind_recursive(source, target)
        .at(Layer::Mounts, || format!("bind all of {} on {}", source.display(), target.display()))
}

/// As [`show`], where there is such a target.
pub fn cover(source: &Path, target: &Path) -> Result<(), LayerError> {
    match rustix::mount::mount_bind(source, target) {
        Err(Errno::NOENT) => Ok(()),
        shown => shown.at(Layer::Mounts, || format!("cover {}", target.display())),
    }
}

/// A detached copy of the mount at such a path.
pub fn clone_own(source: &Path) -> Result<OwnedFd, LayerError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    rustix::mount::open_tree(CWD, source, flags).at(Layer::Mounts, || format!("open_tree {}", source.display()))
}

/// As [`clone_own`], with the mounts below it.
pub fn clone_own_all(source: &Path) -> Result<OwnedFd, LayerError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW
        | OpenTreeFlags::AT_RECURSIVE;
    rustix::mount::open_tree(CWD, source, flags).at(Layer::Mounts, || format!("open_tree {}", source.display()))
}

/// Attaches a detached tree at such a path.
pub fn attach_own(tree: &OwnedFd, target: &Path) -> Result<(), LayerError> {
    rustix::mount::move_mount(tree, c"", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .at(Layer::Mounts, || format!("move_mount onto {}", target.display()))
}

/// Attaches a detached tree at `relative` below `root`, which is such a path; it is called `target` in errors.
pub fn attach_below(tree: &OwnedFd, root: &OwnedFd, relative: &Path, target: &Path) -> Result<(), LayerError> {
    rustix::mount::move_mount(tree, c"", root, relative, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .at(Layer::Mounts, || format!("move_mount onto {}", target.display()))
}

/// Opens what `path` names, of which no part may be a symbolic link (`openat2(2)`).
pub fn open_beneath<Fd: AsFd>(dir: Fd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(dir, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), resolve)
}

/// Attaches a detached tree at `target`, which must not contain symbolic links.
pub fn attach(tree: OwnedFd, target: &Path) -> Result<(), LayerError> {
    let place = open_beneath(CWD, target, OFlags::PATH).at(Layer::Mounts, || format!("open {}", target.display()))?;
    attach_at(&tree, &place, target)
}

/// Attaches a detached tree on what `place` is opened on.
pub fn attach_at(tree: &OwnedFd, place: &OwnedFd, target: &Path) -> Result<(), LayerError> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree, c"", place, c"", flags).at(Layer::Mounts, || format!("move_mount onto {}", target.display()))
}

/// Sets attributes on a whole detached tree, e.g. `MOUNT_ATTR_RDONLY`.
pub fn restrict(tree: &OwnedFd, attributes: u64, path: &Path) -> Result<(), LayerError> {
    syscall::mount_setattr(tree.as_fd(), true, attributes, None)
        .at(Layer::Mounts, || format!("mount_setattr {attributes:#x} for {}", path.display()))
}

/// Sets attributes on the mount at `path` and all below it.
pub fn restrict_all(path: &Path, attributes: u64) -> Result<(), LayerError> {
    let at = open_beneath(CWD, path, OFlags::PATH).at(Layer::Mounts, || format!("open {}", path.display()))?;
    restrict(&at, attributes, path)
}

/// Makes each directory from below `root` to `root/relative` a mount point, so that none can be renamed away and made anew.
pub fn pin(root: &Path, relative: &Path) -> Result<(), LayerError> {
    let mut path = PathBuf::from(root);
    for part in relative.components() {
        path.push(part);
        let at = open_beneath(CWD, &path, OFlags::PATH).at(Layer::Mounts, || format!("open {}", path.display()))?;
        pin_one(&at, &path)?;
    }
    Ok(())
}

/// Makes what `at` is opened on a mount point, where it is none yet (`statx(2)`, `STATX_ATTR_MOUNT_ROOT`): again and again, each
/// with all below it, they would double every time.
fn pin_one(at: &OwnedFd, path: &Path) -> Result<(), LayerError> {
    let stat = rustix::fs::statx(at, c"", AtFlags::EMPTY_PATH, StatxFlags::empty())
        .at(Layer::Mounts, || format!("statx {}", path.display()))?;
    if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Ok(());
    }
    attach(clone_at(at.as_fd(), path)?, path)
}

/// Keeps `root/relative` read-only. Each directory on the way becomes a mount point; see [`pin`].
pub fn protect(root: &Path, relative: &Path, notes: &mut Vec<String>) -> Result<(), LayerError> {
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
                return Err(LayerError::new(Layer::Mounts, format!("open {}", path.display()), Some(errno.raw_os_error())));
            }
        };
        // O_PATH with O_NOFOLLOW opens a symbolic link itself.
        let kind = rustix::fs::fstat(&at).at(Layer::Mounts, || format!("stat {}", path.display()))?;
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
