//! Files that are whole or absent, whenever the power goes; and the folders that they are in.

use crate::error::{DiskError, Doing as _};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

/// Writes `to` in one step. `draft` is a name of the same file system that only the writer uses now.
pub fn write(to: &Path, bytes: &[u8], draft: &Path) -> Result<(), DiskError> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(draft).doing("make", draft)?;
    file.write_all(bytes).doing("write", draft)?;
    file.sync_all().doing("flush", draft)?;
    fs::rename(draft, to).doing("rename to", to)
}

/// Reads a file that was written so; `None` when it is absent.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).doing("read", path),
    }
}

/// Makes durable what was made in a directory, or renamed into or out of it.
pub fn flush_directory(path: &Path) -> Result<(), DiskError> {
    File::open(path).and_then(|directory| directory.sync_all()).doing("flush", path)
}

/// Makes durable all that was written to the file system of `path`. For the many files of a layer this is one call and one commit of
/// the journal, where `fsync` would be one each.
pub fn flush_all(path: &Path) -> Result<(), DiskError> {
    let directory = File::open(path).doing("open", path)?;
    rustix::fs::syncfs(directory.as_fd()).doing("flush", path)
}

/// Makes a folder that is its owner's alone.
pub fn make_folder(path: &Path) -> Result<(), DiskError> {
    fs::DirBuilder::new().mode(0o700).create(path).doing("make", path)
}

/// What is in a folder, sorted; nothing when it is none, or its owner removed it meanwhile.
pub fn entries(folder: &Path) -> Result<Vec<PathBuf>, DiskError> {
    let list = || fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>();
    match list() {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Vec::new()),
        other => other.doing("list", folder).map(|mut entries| {
            entries.sort();
            entries
        }),
    }
}
