//! Copy-on-write grants, whose changes only the sandbox sees: an overlay of the host's directory and a directory of the scratch
//! file system (`Documentation/filesystems/overlayfs.rst`).
//!
//! The host's directory is the lower layer, which overlayfs never writes to and which is also mounted read-only. The sandbox has
//! no path to the upper directory or the lower mount: both are in the scratch file system, which the sandbox's `/proc` covers.
//!
//! An earlier sandbox that could write to the lower directory may have prepared it. With `userxattr`, overlayfs follows no
//! redirect and no metacopy attribute, so that the lower directory shows only its own files.

use super::{GrantPlan, scratch::Scratch, tree};
use crate::ErrnoContext;
use agentd_core::{Access, Control, ControlError};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags},
};
use std::{os::fd::OwnedFd, path::Path};

/// The directory of the scratch file system for the changes to copy-on-write grants.
pub(super) struct Uppers(OwnedFd);

impl Uppers {
    /// Creates the directories that overlayfs needs, if any of `grants` is copy-on-write.
    pub(super) fn prepare(scratch: &Scratch, grants: &[GrantPlan]) -> Result<Option<Self>, ControlError> {
        let mut place = None;
        for (number, _) in grants.iter().enumerate().filter(|(_, grant)| grant.access == Access::CopyOnWrite) {
            place = Some(scratch.directory(COPIES, 0o700)?);
            scratch.directory(&format!("{COPIES}/{number}"), 0o700)?;
            for (name, mode) in [(LOWER, 0o700), ("up", 0o755), ("work", 0o700)] {
                scratch.directory(&format!("{COPIES}/{number}/{name}"), mode)?;
            }
        }
        place.map(|place| open(rustix::fs::CWD, &place).map(Self)).transpose()
    }
}

/// Name of that directory in the scratch file system.
const COPIES: &str = "copies";

/// Name of the mount point of the host's directory.
const LOWER: &str = "low";

/// Returns the tree to attach for a grant: `tree` itself, or an overlay of it for a copy-on-write grant. If this kernel cannot
/// use the directory as a layer of an overlay, returns `None` and adds a note. In that case, the grant is not shown.
pub(super) fn layered(
    uppers: Option<&Uppers>,
    (number, grant): (usize, &GrantPlan),
    tree: OwnedFd,
    notes: &mut Vec<String>,
) -> Result<Option<OwnedFd>, ControlError> {
    let Some(uppers) = uppers.filter(|_| grant.access == Access::CopyOnWrite) else { return Ok(Some(tree)) };
    let own = open(&uppers.0, Path::new(&number.to_string()))?;
    tree::restrict(&tree, tree::READ_ONLY, &grant.path)?;
    tree::attach_at(&tree, &open(&own, Path::new(LOWER))?, &grant.path)?;
    match overlay(&own) {
        Ok(overlay) => Ok(Some(overlay)),
        // EINVAL: mounts below the directory, or an unsuitable file system; ENODEV: no overlayfs; EPERM: Linux before 5.11.
        Err(errno @ (Errno::INVAL | Errno::NODEV | Errno::PERM | Errno::OPNOTSUPP)) => {
            let cause = std::io::Error::from(errno);
            notes.push(format!("copy-on-write grant {} is left out: mount overlayfs: {cause}", grant.path.display()));
            Ok(None)
        }
        Err(errno) => {
            let call = format!("mount an overlay of {}", grant.path.display());
            Err(ControlError::new(Control::Mounts, call, Some(errno.raw_os_error())))
        }
    }
}

/// Creates a detached overlay of the directories in `own`. Their names are relative to the working directory, so that no path of
/// the host is part of an option: commas and colons in a path would have a meaning there.
fn overlay(own: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    rustix::process::fchdir(own)?;
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, value) in [("lowerdir", LOWER), ("upperdir", "up"), ("workdir", "work")] {
        rustix::mount::fsconfig_set_string(&context, name, value)?;
    }
    rustix::mount::fsconfig_set_flag(&context, "userxattr")?;
    rustix::mount::fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Opens a directory of the scratch file system.
fn open(at: impl std::os::fd::AsFd, path: &Path) -> Result<OwnedFd, ControlError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty())
        .during(Control::Mounts, || format!("open {} of the scratch file system", path.display()))
}
