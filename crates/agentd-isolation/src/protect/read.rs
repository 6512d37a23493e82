//! Reads files that a payload may have created. No symbolic link is followed, no FIFO or device is opened for reading, and the
//! number of bytes read is limited.

use super::interrupt::Interrupt;
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2},
    io::Errno,
};
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    io::Read as _,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

/// The maximum size of a file that is read, in bytes. Git has no such limit, but no genuine configuration is this large.
pub(super) const MAX_FILE_BYTES: u64 = 1 << 20;

/// The size of a buffer for the content of a file whose digest is computed.
const BUFFER: usize = 16 << 10;

/// Opens `path` below `directory` without following a symbolic link anywhere in it.
pub(super) fn open(directory: impl AsFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let mut flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    if !flags.contains(OFlags::PATH) {
        flags |= OFlags::NONBLOCK | OFlags::NOCTTY;
    }
    openat2(directory, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS)
}

/// Returns whether a path that could not be opened or looked up leads to no object. Any other error may hide one.
pub(super) fn is_absent(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

/// Returns the content of the regular file `path` below `directory`; `None` if there is no such file or it is larger than
/// [`MAX_FILE_BYTES`].
pub(super) fn file(directory: impl AsFd, path: &Path) -> Option<Vec<u8>> {
    let (opened, size) = regular(directory, path).ok()?;
    // The buffer is larger than the file, so that one read returns the content and the next one the end.
    let mut content = Vec::with_capacity(usize::try_from(size.min(MAX_FILE_BYTES) + 1).unwrap_or(0));
    // One byte more than allowed is read: files of /proc report no size, and a file may grow while it is read.
    opened.take(MAX_FILE_BYTES + 1).read_to_end(&mut content).ok()?;
    (content.len() as u64 <= MAX_FILE_BYTES).then_some(content)
}

/// Opens the regular file `path` below `directory`. Also returns the size of the file.
fn regular(directory: impl AsFd, path: &Path) -> rustix::io::Result<(File, u64)> {
    let path_only = open(&directory, path, OFlags::PATH)?;
    // The file type is checked before the file is opened: opening some devices for reading has side effects.
    if !FileType::from_raw_mode(fstat(&path_only)?.st_mode).is_file() {
        return Err(Errno::LOOP);
    }
    let opened = open(&directory, path, OFlags::RDONLY)?;
    let meta = fstat(&opened)?;
    if !FileType::from_raw_mode(meta.st_mode).is_file() {
        return Err(Errno::LOOP);
    }
    Ok((File::from(opened), u64::try_from(meta.st_size).unwrap_or(0)))
}

/// Returns the SHA-256 digest of the first `max` bytes of the regular file at an absolute path.
///
/// # Errors
/// The file cannot be opened or read. If no regular file is there, [`is_absent`] is true for the error. `EINTR` after an
/// interrupt.
pub(super) fn digest(path: &Path, max: u64, interrupt: &Interrupt) -> rustix::io::Result<[u8; 32]> {
    let (opened, _) = regular(CWD, path)?;
    let (mut opened, mut digest, mut buffer) = (opened.take(max), Sha256::new(), vec![0; BUFFER]);
    loop {
        if interrupt.is_due() {
            return Err(Errno::INTR);
        }
        match opened.read(&mut buffer) {
            Ok(0) => return Ok(digest.finalize().into()),
            Ok(length) => digest.update(&buffer[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }
}

/// Reads an absolute path like [`file`].
pub(super) fn absolute(path: &Path) -> Option<Vec<u8>> {
    file(CWD, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn file_link_fifo_and_oversized_file_are_not_read() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::write(at("good"), "x").unwrap();
        assert_eq!(absolute(&at("good")), Some(b"x".to_vec()));
        symlink(at("good"), at("link")).unwrap();
        assert_eq!(absolute(&at("link")), None);
        symlink("/proc", at("proc")).unwrap();
        assert_eq!(absolute(&at("proc/kmsg")), None);
        rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_eq!(absolute(&at("fifo")), None);
        let large = fs::File::create(at("large")).unwrap();
        large.set_len(MAX_FILE_BYTES + 1).unwrap();
        assert_eq!(absolute(&at("large")), None);
        assert_eq!(absolute(Path::new("/dev/zero")), None);
    }
}
