//! A device of the host's that one kind of sandbox is shown beside the harmless ones: what runs a virtual machine needs what makes it fast.
//!
//! As root's, a sandbox has an id of its own, to which the host's node is as closed as to any stranger, and a node's owner cannot be mapped:
//! `devtmpfs` does not have it. So it gets a node of its own, in a file system that holds nothing else and belongs to this mount alone.

use super::tree;
use crate::At;
use agentd_core::{Layer, LayerError};
use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, Uid},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags},
};
use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// Nodes for the same devices as `paths`, named by their numbers, which `owner` alone can open: a directory that is attached nowhere. Needs
/// root.
pub fn own_nodes(paths: &[PathBuf], owner: (u32, u32)) -> Result<OwnedFd, LayerError> {
    let at = |call: &str| format!("{call} a tmpfs for devices");
    let fs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).at(Layer::Mounts, || at("fsopen"))?;
    for (option, value) in [("mode", "700"), ("size", "4096"), ("nr_inodes", "64")] {
        rustix::mount::fsconfig_set_string(&fs, option, value).at(Layer::Mounts, || at(&format!("set {option} of")))?;
    }
    rustix::mount::fsconfig_create(&fs).at(Layer::Mounts, || at("create"))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let tree = rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).at(Layer::Mounts, || at("fsmount"))?;
    let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
    rustix::fs::chownat(&tree, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).at(Layer::Mounts, || at("chown"))?;
    for (number, path) in paths.iter().enumerate() {
        let stat = rustix::fs::lstat(path).at(Layer::Mounts, || format!("stat {}", path.display()))?;
        if !FileType::from_raw_mode(stat.st_mode).is_char_device() {
            let what = format!("{} is no character device", path.display());
            return Err(LayerError::new(Layer::Mounts, what, Some(libc::ENODEV)));
        }
        let name = number.to_string();
        rustix::fs::mknodat(&tree, &name, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, stat.st_rdev)
            .at(Layer::Mounts, || format!("make a node for {}", path.display()))
            .map_err(|error| error.remedy("an outer container must allow mknod(2)"))?;
        rustix::fs::chownat(&tree, &name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .at(Layer::Mounts, || format!("chown the node for {}", path.display()))?;
    }
    Ok(tree)
}

/// Where the devices of a sandbox come from.
pub enum Devices {
    /// What [`own_nodes`] made.
    Own(OwnedFd),
    /// The caller's, in this process's view, which must still be the host's: for an ordinary user, who may open them or not.
    Callers(Vec<OwnedFd>),
}

impl Devices {
    /// Those of the caller's.
    pub fn callers(paths: &[PathBuf]) -> Result<Self, LayerError> {
        paths.iter().map(|path| tree::clone_own(path)).collect::<Result<_, _>>().map(Self::Callers)
    }

    /// Shows them in `dev`, each by its own name. `aside` is an empty directory that nobody reaches afterwards.
    pub(super) fn show(self, paths: &[PathBuf], dev: &Path, aside: &Path) -> Result<(), LayerError> {
        if let Self::Own(tree) = &self {
            tree::attach_own(tree, aside)?;
        }
        for (number, path) in paths.iter().enumerate() {
            let place = dev.join(path.file_name().unwrap_or_default());
            std::fs::File::create_new(&place).at(Layer::Mounts, || format!("make a place for {}", path.display()))?;
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
