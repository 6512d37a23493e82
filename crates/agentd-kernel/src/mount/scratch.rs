//! The scratch file system: the one private tmpfs of a sandbox, whose directories are shown at their paths in the view or root.

use super::tree;
use crate::ErrnoContext;
use agentd_core::{Control, ControlError};
use rustix::mount::{MountFlags, mount};
use std::{
    ffi::CString,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// Mount point of the tmpfs while the view is built. The view's own `/proc` covers it afterwards, so that it need not be
/// unmounted, which would cost an RCU grace period.
const PLACE: &str = "/proc";

pub(super) struct Scratch(());

impl Scratch {
    /// Mounts the tmpfs, `nosuid,nodev`, with a limit of `bytes` bytes.
    pub(super) fn mount(bytes: u64) -> Result<Self, ControlError> {
        let options = CString::new(format!("mode=755,size={bytes},nr_inodes=1m"))
            .map_err(|_| ControlError::new(Control::Mounts, "set the options of the scratch tmpfs", Some(libc::EINVAL)))?;
        mount("tmpfs", PLACE, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))
            .during(Control::Mounts, || "mount the scratch tmpfs".to_owned())?;
        Ok(Self(()))
    }

    /// Returns the path of the directory `name`, creating it on the first call.
    pub(super) fn directory(&self, name: &str, mode: u32) -> Result<PathBuf, ControlError> {
        let path = Path::new(PLACE).join(name);
        match fs::DirBuilder::new().mode(mode).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(path),
            made => made.during(Control::Mounts, || format!("mkdir {name} for the view")).map(|()| path),
        }
    }

    /// Shows the directory `name` at `target`, creating it on the first call.
    pub(super) fn show(&self, name: &str, mode: u32, target: &Path) -> Result<(), ControlError> {
        tree::show(&self.directory(name, mode)?, target)
    }
}
