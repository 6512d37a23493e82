//! The log of the daemon: two files next to its lock, each of at most [`MAX_FILE_BYTES`] bytes. When the first file is full, it
//! replaces the second.

use rustix::{
    fs::{FileType, Mode, OFlags},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

/// The newer file and the older one.
const NAMES: [&str; 2] = ["log", "log.1"];

/// Size in bytes at which the newer file becomes the older one.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Maximum length of a record, in bytes. Records are cut off because parts of them may come from a sandbox.
const MAX_RECORD_BYTES: usize = 16 << 10;

/// The log file of the daemon, open for writing. Each call of `write` writes one record, which must end with a line break.
#[derive(Debug)]
pub struct LogFile {
    folder: OwnedFd,
    file: File,
    length: u64,
    max: u64,
}

/// Returns the paths of the log of the daemon with the folder `folder`: the newer file and the older one. Either may be missing.
pub(crate) fn paths(folder: &Path) -> [PathBuf; 2] {
    NAMES.map(|name| folder.join(name))
}

impl LogFile {
    /// Opens the log in the folder of the daemon. The caller must hold the daemon's lock.
    pub(crate) fn open(folder: &OwnedFd) -> io::Result<Self> {
        Self::with_limit(folder, MAX_FILE_BYTES)
    }

    fn with_limit(folder: &OwnedFd, max: u64) -> io::Result<Self> {
        let file = open(folder)?;
        let length = file.metadata()?.len();
        Ok(Self { folder: folder.try_clone()?, file, length, max })
    }

    fn rotate(&mut self) -> io::Result<()> {
        rustix::fs::renameat(&self.folder, NAMES[0], &self.folder, NAMES[1])?;
        self.file = open(&self.folder)?;
        self.length = 0;
        Ok(())
    }
}

impl Write for LogFile {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let kept = if record.len() > MAX_RECORD_BYTES { &record[..MAX_RECORD_BYTES] } else { record };
        if self.length > 0 && self.length.saturating_add(kept.len() as u64) > self.max {
            self.rotate()?;
        }
        self.file.write_all(kept)?;
        self.length = self.length.saturating_add(kept.len() as u64);
        if kept.len() < record.len() {
            self.file.write_all(b" [cut]\n")?;
        }
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens the newer file for appending. Rejects any other file of that name, such as a link, or a pipe, which would block.
fn open(folder: &OwnedFd) -> io::Result<File> {
    let flags = OFlags::CREATE | OFlags::APPEND | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder.as_fd(), NAMES[0], flags, Mode::from(0o600))?;
    let stat = rustix::fs::fstat(&file)?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() || !agentd_disk::is_own_uid(stat.st_uid) {
        return Err(Errno::ACCESS.into());
    }
    rustix::fs::fchmod(&file, Mode::from(0o600))?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    fn folder(place: &Path) -> OwnedFd {
        rustix::fs::open(place, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn full_log_is_rotated_once_and_stays_bounded() {
        let place = tempfile::tempdir().unwrap();
        let mut log = LogFile::with_limit(&folder(place.path()), 105).unwrap();
        for number in 0..50 {
            log.write_all(format!("record {number:02}\n").as_bytes()).unwrap();
        }
        let [newer, older] = paths(place.path()).map(|path| fs::read_to_string(path).unwrap());
        assert!(newer.len() <= 105 && older.len() <= 105 && !older.is_empty());
        assert!((older + &newer).ends_with("record 48\nrecord 49\n"));
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
        // A second daemon appends to the existing file.
        let mut log = LogFile::with_limit(&folder(place.path()), 105).unwrap();
        log.write_all(b"next\n").unwrap();
        assert!(fs::read_to_string(place.path().join("log")).unwrap().ends_with("record 49\nnext\n"));
    }

    #[test]
    fn record_over_the_maximum_length_is_truncated() {
        let place = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(&folder(place.path())).unwrap();
        log.write_all(&vec![b'x'; MAX_RECORD_BYTES * 2]).unwrap();
        let written = fs::read_to_string(place.path().join("log")).unwrap();
        assert!(written.ends_with("x [cut]\n") && written.len() < MAX_RECORD_BYTES + 10);
    }

    #[test]
    fn log_is_private_and_no_link_or_pipe_is_followed() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("log");
        LogFile::open(&folder(place.path())).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(place.path().join("target"), &path).unwrap();
        assert!(LogFile::open(&folder(place.path())).is_err());
        assert!(!place.path().join("target").exists());
        fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::from(0o600)).unwrap();
        assert!(LogFile::open(&folder(place.path())).is_err());
    }

    /// Tests that need root. An ordinary user skips them: `--skip as_root::`.
    mod as_root {
        use super::*;

        #[test]
        fn log_of_another_user_is_refused() {
            let place = tempfile::tempdir().unwrap();
            let path = place.path().join("log");
            fs::write(&path, "").unwrap();
            LogFile::open(&folder(place.path())).unwrap();
            std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
            assert!(LogFile::open(&folder(place.path())).is_err());
        }
    }
}
