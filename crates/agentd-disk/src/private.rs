//! Directories that are their owner's alone.

use crate::error::{DiskError, Doing as _};
use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::Path,
};

/// Why a directory is not the caller's alone.
#[derive(Debug, thiserror::Error)]
pub enum NotPrivate {
    /// It could not be made or looked at.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// It is somebody's else, or open to others: what is wrong, and what to do.
    #[error("{0}")]
    Refused(&'static str),
}

/// Makes a directory, and those above it as they usually are; or checks that it is the caller's alone. Set-id files of strangers lie in such
/// ones, and whoever can rename in them decides what sandboxes are made of.
///
/// # Errors
/// [`NotPrivate`].
pub fn make_private(root: &Path) -> Result<(), NotPrivate> {
    if let Some(parent) = root.parent() {
        fs::create_dir_all(parent).doing("make", parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(root) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other.doing("make", root)?,
    }
    let found = fs::symlink_metadata(root).doing("look at", root)?;
    if !found.is_dir() {
        return Err(NotPrivate::Refused("is not a directory — name another place"));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(NotPrivate::Refused("belongs to another user — name another place, or run as its owner"));
    }
    if found.mode() & 0o077 != 0 {
        return Err(NotPrivate::Refused("can be entered by others — chmod 700 it"));
    }
    Ok(())
}
