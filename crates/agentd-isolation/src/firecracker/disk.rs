//! A machine's own disk: an ext4 file system in a sparse file, which takes the room on the host that is used of it.

use agentd_core::IsolationError;
use agentd_kernel::volume::Volume;
use rustix::{fs::SeekFrom, io::Errno};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Bytes of a copy at a time.
const CHUNK: usize = 1 << 20;

/// Makes the disk `to` of `bytes` bytes: a copy of an empty one below `cache`, which is made once for each size.
pub(super) fn make(cache: &Path, bytes: u64, to: &Path) -> Result<(), IsolationError> {
    let empty = empty(cache, bytes)?;
    copy(&empty, to)
}

/// The empty disk of a size.
fn empty(cache: &Path, bytes: u64) -> Result<PathBuf, IsolationError> {
    let path = cache.join(format!("empty-{bytes}.ext4"));
    if path.exists() {
        return Ok(path);
    }
    fs::create_dir_all(cache).map_err(|source| IsolationError::Io { context: format!("make {}", cache.display()), source })?;
    match Volume::format(&path, bytes) {
        // Another was faster.
        Err(error) if error.errno == Some(libc::EEXIST) => Ok(path),
        made => Ok(made.map(|()| path)?),
    }
}

/// Copies a sparse file, which nobody may be writing: in no time where the file system can share blocks, else what is not a hole.
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
            // A hole up to the end.
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
    fn a_copy_has_the_same_bytes_and_takes_no_more_room() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"one", 0).unwrap();
        file.write_all_at(&[7; 300_000], 20 << 20).unwrap();
        copy(&from, &to).unwrap();
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
        assert!(to.metadata().unwrap().blocks() <= from.metadata().unwrap().blocks() + 64);
        // What is there already is nobody's to overwrite.
        assert!(copy(&from, &to).is_err());
    }
}
