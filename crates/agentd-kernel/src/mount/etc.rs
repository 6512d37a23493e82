//! The host's `/etc` in a sandbox's own root: the configuration of the host's programs, for roots that show these programs.
//!
//! A sandbox sees only the world-readable part of the host's `/etc`. A sandbox created by root has no id that owns files of the
//! host. A sandbox of an unprivileged user has that user's id and groups, so files that only this user or these groups may read
//! are hidden or not copied. An overlayfs layer grants no additional access. Overlayfs copies up files and their attributes with
//! the rights of the process that mounted the overlay, which is the sandbox itself (`Documentation/filesystems/overlayfs.rst`,
//! "Permission model").

mod copy;
mod hidden;

use super::{
    names::{self, NamesPlan},
    scratch::Scratch,
};
use crate::ErrnoContext;
use agentd_core::{Control, ControlError};
use rustix::{
    fs::{FileType, Mode, OFlags, Stat},
    io::Errno,
    mount::{MountFlags, mount},
};
use serde::{Deserialize, Serialize};
use std::{os::fd::OwnedFd, path::Path};

/// The way in which a root gets the host's `/etc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostEtc {
    /// An overlay whose lower layer is the host's `/etc`, with changes in memory.
    Overlay {
        /// True if the sandbox has ids or groups of the host. Files that only these may read must then be hidden.
        hide: bool,
    },
    /// A copy that is created once. It is used for roots whose changes are kept, because the lower layer of an overlay must not
    /// change.
    Copy,
}

impl HostEtc {
    /// Describes the variant for reports.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Overlay { .. } => "the world-readable part of the host's; changes are in memory",
            Self::Copy => "a copy of the world-readable part of the host's",
        }
    }
}

/// The path of `/etc` on the host.
const ETC: &str = "/etc";

/// Mounts an overlay of the host's `/etc` on `/etc` of the root at `root`, with the sandbox's own name files in it. Returns false
/// if the host's file system cannot be a layer of an overlay here.
pub(super) fn overlay(
    scratch: &Scratch,
    root: &Path,
    (names, hide): (Option<&NamesPlan>, bool),
    notes: &mut Vec<String>,
) -> Result<bool, ControlError> {
    scratch.directory("etc", 0o700)?;
    let up = scratch.directory("etc/up", 0o755)?;
    let work = scratch.directory("etc/work", 0o700)?;
    if let Some(names) = names {
        names::write_over(names, &up, notes)?;
    }
    if hide {
        hidden::hide(&open_host()?, &up)?;
    }
    let options = format!("lowerdir={ETC},upperdir={},workdir={},userxattr,volatile", up.display(), work.display());
    let options = std::ffi::CString::new(options)
        .map_err(|_| ControlError::new(Control::Mounts, "set the options of the overlay of /etc", Some(libc::EINVAL)))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mounted(mount("overlay", root.join("etc"), "overlay", flags, Some(options.as_c_str())))
}

/// Returns true if the overlay was mounted, and false on errors after which a copy can be used instead:
///
/// - `EINVAL`: the host's file system cannot be a layer. Either it is a stack of overlays already, or it contains mounts that the
///   sandbox's owner may not remove, such as `/etc/hosts` in containers.
/// - `ENODEV`: the kernel has no overlayfs.
/// - `EPERM`: the kernel has no overlayfs in user namespaces (before Linux 5.11).
fn mounted(result: rustix::io::Result<()>) -> Result<bool, ControlError> {
    match result {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NODEV | Errno::PERM) => Ok(false),
        Err(errno) => Err(ControlError::new(Control::Mounts, "mount an overlay of the host's /etc", Some(errno.raw_os_error()))
            .remedy("use an image, which has its own /etc")),
    }
}

/// Copies the world-readable part of the host's `/etc` into the root if the root has no `/etc` yet.
pub(super) fn copy(root: &OwnedFd, notes: &mut Vec<String>) -> Result<(), ControlError> {
    copy::copy(&open_host()?, root, notes)
}

fn open_host() -> Result<OwnedFd, ControlError> {
    rustix::fs::open(ETC, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .during(Control::Mounts, || format!("open {ETC}"))
}

/// Returns true if the file is world-readable, or the directory world-readable and world-searchable.
fn is_open_to_all(stat: &Stat) -> bool {
    let needed = if FileType::from_raw_mode(stat.st_mode).is_dir() { 0o005 } else { 0o004 };
    stat.st_mode & needed == needed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etc_copy_is_used_only_if_overlay_is_unsupported() {
        assert!(mounted(Ok(())).unwrap());
        for errno in [Errno::INVAL, Errno::NODEV, Errno::PERM] {
            assert!(!mounted(Err(errno)).unwrap());
        }
        for errno in [Errno::NOMEM, Errno::ACCESS] {
            assert_eq!(mounted(Err(errno)).unwrap_err().errno, Some(errno.raw_os_error()));
        }
    }
}
