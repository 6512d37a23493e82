//! Devices of the host that are shown in addition to the harmless nodes: a sandbox that runs a virtual machine needs, for
//! example, `/dev/kvm`.
//!
//! A sandbox created by root has its own host ids, which have no access to the host's nodes. An id map does not help: `devtmpfs`
//! does not support id-mapped mounts. So the sandbox gets its own nodes, on a new file system that contains nothing else and
//! belongs to this mount alone.

use super::tree;
use crate::ErrnoContext;
use agentd_core::{Control, ControlError};
use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, Uid},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags},
};
use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// Creates device nodes for the same devices as `paths`, in a detached directory. Each node is named after its index in `paths`
/// and is accessible to `owner` (uid and gid) only. Needs root.
///
/// # Errors
/// `ENODEV` if a path is not a character device, or the errno of a failed call.
pub fn own_nodes(paths: &[PathBuf], owner: (u32, u32)) -> Result<OwnedFd, ControlError> {
    let at = |call: &str| format!("{call} a tmpfs for devices");
    let fs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).during(Control::Mounts, || at("fsopen"))?;
    for (option, value) in [("mode", "700"), ("size", "4096"), ("nr_inodes", "64")] {
        rustix::mount::fsconfig_set_string(&fs, option, value).during(Control::Mounts, || at(&format!("set {option} of")))?;
    }
    rustix::mount::fsconfig_create(&fs).during(Control::Mounts, || at("create"))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let tree =
        rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).during(Control::Mounts, || at("fsmount"))?;
    let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
    rustix::fs::chownat(&tree, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).during(Control::Mounts, || at("chown"))?;
    for (number, path) in paths.iter().enumerate() {
        let stat = rustix::fs::lstat(path).during(Control::Mounts, || format!("stat {}", path.display()))?;
        if !FileType::from_raw_mode(stat.st_mode).is_char_device() {
            let what = format!("{} is not a character device", path.display());
            return Err(ControlError::new(Control::Mounts, what, Some(libc::ENODEV)));
        }
        let name = number.to_string();
        rustix::fs::mknodat(&tree, &name, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, stat.st_rdev)
            .during(Control::Mounts, || format!("create a device node for {}", path.display()))
            .map_err(|error| error.remedy("if agentd runs in a container, allow mknod(2) in that container"))?;
        rustix::fs::chownat(&tree, &name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .during(Control::Mounts, || format!("chown the node for {}", path.display()))?;
    }
    Ok(tree)
}

/// The source of a sandbox's devices.
pub enum Devices {
    /// Nodes from [`own_nodes`].
    Own(OwnedFd),
    /// Detached mounts of the caller's nodes, cloned from the host's view. For an unprivileged caller, whose access rights apply
    /// to the sandbox.
    Callers(Vec<OwnedFd>),
}

impl Devices {
    /// Clones the mounts of the caller's nodes at `paths`. The view of this process must still be the host's.
    ///
    /// # Errors
    /// The errno of `open_tree(2)`.
    pub fn callers(paths: &[PathBuf]) -> Result<Self, ControlError> {
        paths.iter().map(|path| tree::clone_own(path)).collect::<Result<_, _>>().map(Self::Callers)
    }

    /// Shows the devices in `dev` under their own names. `aside` is an empty directory on which the device
    /// tree is mounted temporarily. No process may have a path to it after this call.
    pub(super) fn show(self, paths: &[PathBuf], dev: &Path, aside: &Path) -> Result<(), ControlError> {
        if let Self::Own(tree) = &self {
            tree::attach_own(tree, aside)?;
        }
        for (number, path) in paths.iter().enumerate() {
            let place = dev.join(path.file_name().unwrap_or_default());
            std::fs::File::create_new(&place)
                .during(Control::Mounts, || format!("create the mount point of {}", path.display()))?;
            match &self {
                Self::Own(_) => tree::show(&aside.join(number.to_string()), &place)?,
                Self::Callers(trees) => {
                    if let Some(tree) = trees.get(number) {
                        tree::attach_own(tree, &place)?;
                    }
                }
            }
        }
        Ok(())
    }
}
