//! Files that are complete or absent after a power failure, and the directories that contain them.

use crate::error::{DiskError, FileContext as _};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

/// Writes `to` atomically: writes and flushes `draft`, then renames `draft` to `to`. `draft` is on the same file system, and only
/// this writer uses that name during the call.
///
/// # Errors
/// [`DiskError`] if `draft` cannot be created, written or flushed, or the rename fails.
pub fn write(to: &Path, bytes: &[u8], draft: &Path) -> Result<(), DiskError> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(draft).during("create", draft)?;
    file.write_all(bytes).during("write", draft)?;
    file.sync_all().during("sync", draft)?;
    fs::rename(draft, to).during("rename to", to)
}

/// Reads a file that [`write()`] created; `None` if the file does not exist.
///
/// # Errors
/// [`DiskError`] if the file exists and cannot be read.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).during("read", path),
    }
}

/// Flushes a directory, which makes creations in it and renames into and out of it durable.
///
/// # Errors
/// [`DiskError`] if the directory cannot be opened or flushed.
pub fn flush_directory(path: &Path) -> Result<(), DiskError> {
    File::open(path).and_then(|directory| directory.sync_all()).during("sync", path)
}

/// Flushes the whole file system of `path` (`man 2 syncfs`). A layer has many files: this takes one call and one journal commit,
/// whereas `fsync` would take a call and a commit for each file.
///
/// # Errors
/// [`DiskError`] if the directory cannot be opened or the flush fails.
pub fn flush_all(path: &Path) -> Result<(), DiskError> {
    let directory = File::open(path).during("open", path)?;
    rustix::fs::syncfs(directory.as_fd()).during("sync", path)
}

/// Creates a directory with mode 0700.
///
/// # Errors
/// [`DiskError`] if the directory cannot be created.
pub fn make_folder(path: &Path) -> Result<(), DiskError> {
    fs::DirBuilder::new().mode(0o700).create(path).during("create", path)
}

/// Returns the sorted paths of the entries of a directory. The result is empty if `folder` is not a directory or was removed in
/// the meantime.
///
/// # Errors
/// [`DiskError`] if the directory exists and cannot be read.
pub fn entries(folder: &Path) -> Result<Vec<PathBuf>, DiskError> {
    let list = || fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>();
    match list() {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Vec::new()),
        other => other.during("list", folder).map(|mut entries| {
            entries.sort();
            entries
        }),
    }
}
