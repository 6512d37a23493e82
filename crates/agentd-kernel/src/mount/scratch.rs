//! The one private tmpfs of a view, and its directories shown where they belong.

use super::tree;
use crate::At;
use agentd_core::{Layer, LayerError};
use rustix::mount::{MountFlags, mount};
use std::{
    ffi::CString,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// Where the tmpfs is while the view is built. The view's own `/proc` covers it afterwards, so it need not be unmounted, which
/// would cost an RCU grace period.
const PLACE: &str = "/proc";

pub(super) struct Scratch(());

impl Scratch {
    /// Mounts it, `nosuid,nodev`.
    pub(super) fn mount(bytes: u64) -> Result<Self, LayerError> {
        let options = CString::new(format!("mode=755,size={bytes},nr_inodes=1m"))
            .map_err(|_| LayerError::new(Layer::Mounts, "tmpfs options", Some(libc::EINVAL)))?;
        mount("tmpfs", PLACE, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))
            .at(Layer::Mounts, || "mount a tmpfs".to_owned())?;
        Ok(Self(()))
    }

    /// The path of its directory `name`, made at the first call.
    pub(super) fn directory(&self, name: &str, mode: u32) -> Result<PathBuf, LayerError> {
        let path = Path::new(PLACE).join(name);
        match fs::DirBuilder::new().mode(mode).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(path),
            made => made.at(Layer::Mounts, || format!("mkdir {name} for the view")).map(|()| path),
        }
    }

    /// Shows its directory `name` at `target`.
    pub(super) fn show(&self, name: &str, mode: u32, target: &Path) -> Result<(), LayerError> {
        tree::show(&self.directory(name, mode)?, target)
    }
}
