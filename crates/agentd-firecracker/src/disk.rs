//! A machine's own disk: an ext4 file system in a sparse file, which takes only the used blocks on the host.

use agentd_core::IsolationError;
use agentd_kernel::volume::Volume;
use rustix::{fs::SeekFrom, io::Errno};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// The size of one copy operation, in bytes.
const CHUNK: usize = 1 << 20;

/// Creates the disk `to` with `bytes` bytes, as a copy of the empty disk of this size below `cache`.
pub(super) fn make(cache: &Path, bytes: u64, to: &Path) -> Result<(), IsolationError> {
    let empty = empty(cache, bytes)?;
    copy(&empty, to)
}

/// Returns the path of the empty disk with `bytes` bytes, and creates the disk if it is missing.
fn empty(cache: &Path, bytes: u64) -> Result<PathBuf, IsolationError> {
    let path = cache.join(format!("empty-{bytes}.ext4"));
    if path.exists() {
        return Ok(path);
    }
    fs::create_dir_all(cache).map_err(|source| IsolationError::Io { context: format!("create {}", cache.display()), source })?;
    match Volume::format(&path, bytes) {
        // Another process created the disk at the same time.
        Err(error) if error.errno == Some(libc::EEXIST) => Ok(path),
        made => Ok(made.map(|()| path)?),
    }
}

/// Copies a sparse file, which must not change during the copy. Shares the blocks where the file system can (`FICLONE`), which
/// takes almost no time; otherwise copies the data without the holes.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), IsolationError> {
    let failed =
        |source: io::Error| IsolationError::Io { context: format!("copy {} to {}", from.display(), to.display()), source };
    let source = File::open(from).map_err(failed)?;
    let target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(failed)?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    copy_data(&source, &target).map_err(failed)
}

fn copy_data(source: &File, target: &File) -> io::Result<()> {
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut at = 0;
    while at < length {
        let start = match rustix::fs::seek(source, SeekFrom::Data(at)) {
            Ok(start) => start,
            // A hole extends to the end of the file.
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(source, SeekFrom::Hole(start))?;
        let (mut from, mut to) = (start, start);
        while from < end {
            let left = usize::try_from(end - from).unwrap_or(CHUNK).min(CHUNK);
            if rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), left)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        at = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn copy_of_sparse_file_has_same_bytes_and_stays_sparse() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"one", 0).unwrap();
        file.write_all_at(&[7; 300_000], 20 << 20).unwrap();
        copy(&from, &to).unwrap();
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
        assert!(to.metadata().unwrap().blocks() <= from.metadata().unwrap().blocks() + 64);
        // An existing file is never overwritten.
        assert!(copy(&from, &to).is_err());
    }
}
