//! Files that are whole or absent, whenever the power goes.

use crate::error::{Doing as _, ImageError};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::Path,
};

/// Writes `to` in one step. `staging` is a directory of the same file system, the writer's alone.
pub(super) fn write(to: &Path, bytes: &[u8], staging: &Path) -> Result<(), ImageError> {
    let draft = staging.join("draft");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&draft).doing("make", &draft)?;
    file.write_all(bytes).doing("write", &draft)?;
    file.sync_all().doing("flush", &draft)?;
    fs::rename(&draft, to).doing("rename to", to)
}

/// Reads a file that was written so; `None` when it is absent.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, ImageError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).doing("read", path),
    }
}

/// Makes durable what was renamed into, or out of, a directory.
pub(super) fn flush_directory(path: &Path) -> Result<(), ImageError> {
    File::open(path).and_then(|directory| directory.sync_all()).doing("flush", path)
}

/// Makes durable all that was written to the file system of `path`. For the many files of a layer this is one call and one commit of
/// the journal, where `fsync` would be one each.
pub(super) fn flush_all(path: &Path) -> Result<(), ImageError> {
    let directory = File::open(path).doing("open", path)?;
    rustix::fs::syncfs(directory.as_fd()).doing("flush", path)
}
