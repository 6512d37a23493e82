//! Firecracker's root in the mount namespace of the jail: its mounts and the owner of its files.

use super::{Jail, failed};
use crate::files::ASSETS;
use agentd_core::{Control, ControlError};
use rustix::{
    fs::{Gid, Mode, OFlags, Uid},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags},
};
use std::{fs, io, path::Path};

/// Makes Firecracker's root a mount point of this mount namespace, and mounts the assets in it. The mount is shared
/// (`mount_namespaces(7)`): the jailer's copy of the mount receives later mounts from here, but propagates nothing back.
pub(super) fn mount_assets(jail: &Jail, root: &Path) -> Result<(), ControlError> {
    change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    bind(root, root)?;
    change(root, MountPropagationFlags::SHARED)?;
    bind_read_only(&jail.assets, &root.join(ASSETS))
}

fn change(mount: impl AsRef<Path>, propagation: MountPropagationFlags) -> Result<(), ControlError> {
    let mount = mount.as_ref();
    rustix::mount::mount_change(mount, propagation).map_err(|errno| {
        failed(Control::Mounts, format!("change the mount propagation of {} to {propagation:?}", mount.display()), errno)
    })
}

fn bind(source: &Path, at: &Path) -> Result<(), ControlError> {
    rustix::mount::mount_bind(source, at)
        .map_err(|errno| failed(Control::Mounts, format!("bind {} on {}", source.display(), at.display()), errno))
}

/// Mounts a directory read-only in Firecracker's root. The directory is first bound onto itself and made read-only there. A mount
/// in Firecracker's root propagates to the jailer's copy immediately, and later changes of flags would not.
pub(super) fn bind_read_only(source: &Path, at: &Path) -> Result<(), ControlError> {
    bind(source, source)?;
    // Keep the flags of the source's mount: in a user namespace, a remount that clears a locked flag fails
    // (`mount_namespaces(7)`).
    let kept =
        rustix::fs::statvfs(source).map_err(|errno| failed(Control::Mounts, format!("statvfs {}", source.display()), errno))?;
    let mut flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    if kept.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC) {
        flags |= MountFlags::NOEXEC;
    }
    rustix::mount::mount_remount(source, flags, "")
        .map_err(|errno| failed(Control::Mounts, format!("remount {} read-only", source.display()), errno))?;
    bind(source, at)
}

/// Makes Firecracker's user the owner of all entries of Firecracker's root, except the read-only mounts: Firecracker writes to
/// the other entries.
pub(super) fn chown_root_entries(root: &Path, uid: u32, gid: u32) -> Result<(), ControlError> {
    let unreadable = |error: io::Error| ControlError::caused_by(Control::Process, format!("list {}", root.display()), error);
    let directory = rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed(Control::Process, format!("open {}", root.display()), errno))?;
    for entry in fs::read_dir(root).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        match rustix::fs::chownat(&directory, &name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), flags) {
            // Read-only mounts keep their owner.
            Ok(()) | Err(Errno::ROFS) => {}
            Err(errno) => return Err(failed(Control::Process, format!("chown {}", root.join(&name).display()), errno)),
        }
    }
    Ok(())
}
