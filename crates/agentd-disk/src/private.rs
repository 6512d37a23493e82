//! Directories that only their owner may access.

use crate::{
    error::{DiskError, FileContext as _},
    owner::is_own_uid,
};
use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::Path,
};

/// The reason why a directory is not private to the caller.
#[derive(Debug, thiserror::Error)]
pub enum NotPrivate {
    /// The directory could not be created or inspected.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The directory belongs to another user or is accessible to others. The text states the problem and the remedy.
    #[error("{0}")]
    Refused(&'static str),
}

/// Creates `root` with mode 0700 and its missing parents with the usual mode. An existing `root` is checked instead: it must be a
/// directory that belongs to the caller and that nobody else can access. Such directories contain set-id files from untrusted
/// images, and a user who can rename files in them controls the contents of sandboxes.
///
/// # Errors
/// [`NotPrivate`] if the directory cannot be created, or an existing `root` fails the check.
pub fn make_private(root: &Path) -> Result<(), NotPrivate> {
    if let Some(parent) = root.parent() {
        fs::create_dir_all(parent).during("create", parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(root) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other.during("create", root)?,
    }
    let found = fs::symlink_metadata(root).during("stat", root)?;
    if !found.is_dir() {
        return Err(NotPrivate::Refused("not a directory — use another path"));
    }
    if !is_own_uid(found.uid()) {
        return Err(NotPrivate::Refused("directory belongs to another user — use another path, or run as its owner"));
    }
    if found.mode() & 0o077 != 0 {
        return Err(NotPrivate::Refused("directory is accessible to other users — run chmod 700 on it"));
    }
    Ok(())
}
