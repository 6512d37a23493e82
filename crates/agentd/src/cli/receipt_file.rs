//! The files of `agentd run --receipt`.
//!
//! The directory may be one that the command can change. It is therefore opened before the command starts: a symbolic link that
//! the command puts in its place has no effect. A file is written under another name first, and then renamed, so that a link at
//! its place is replaced and not followed.

use super::failure::Failure;
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, fsync, openat, renameat, unlinkat},
    rand::{GetRandomFlags, getrandom},
};
use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// The place of a receipt and of the files beside it.
pub(super) struct ReceiptFile {
    directory: OwnedFd,
    name: OsString,
    path: PathBuf,
}

impl ReceiptFile {
    /// Opens the directory in which the receipt will be written.
    ///
    /// # Errors
    /// The path names no file, or its directory cannot be opened.
    pub fn at(path: &Path) -> Result<Self, Failure> {
        let is_directory = path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/");
        let Some(name) = path.file_name().filter(|_| !is_directory) else {
            return Err(format!("receipt: {}: not the path of a file — name a file with --receipt", path.display()).into());
        };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, parent, flags, Mode::empty())
            .map_err(|errno| format!("receipt: open {}: {} — create the directory", parent.display(), io::Error::from(errno)))?;
        Ok(Self { directory, name: name.to_owned(), path: path.to_path_buf() })
    }

    /// Writes the file whose name is that of the receipt plus `suffix`, durably.
    ///
    /// # Errors
    /// The file cannot be written. The file that it would replace is unchanged.
    pub fn write(&self, suffix: &str, text: &str) -> Result<(), Failure> {
        let mut name = self.name.clone();
        name.push(suffix);
        self.replace(&name, text.as_bytes()).map_err(|error| {
            let path = self.path.with_file_name(&name);
            format!("receipt: write {}: {error} — free space, or check the permissions of its directory", path.display()).into()
        })
    }

    fn replace(&self, name: &OsString, bytes: &[u8]) -> io::Result<()> {
        let mut random = [0; 8];
        getrandom(&mut random, GetRandomFlags::empty())?;
        let mut draft = name.clone();
        draft.push(format!(".{:016x}", u64::from_ne_bytes(random)));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.directory, &draft, flags, Mode::from_raw_mode(0o600))?);
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        let renamed = written.and_then(|()| Ok(renameat(&self.directory, &draft, &self.directory, name)?));
        if renamed.is_err() {
            // The caller reports the first error.
            unlinkat(&self.directory, &draft, AtFlags::empty()).ok();
        }
        renamed.and_then(|()| Ok(fsync(&self.directory)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn directory_and_links_that_are_put_in_place_later_are_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        for name in ["work", "secret"] {
            fs::create_dir(path(name)).unwrap();
        }
        fs::write(path("secret/target"), "keep").unwrap();
        let file = ReceiptFile::at(&path("work/run.receipt")).unwrap();
        symlink(path("secret/target"), path("work/run.receipt")).unwrap();
        fs::rename(path("work"), path("moved")).unwrap();
        symlink(path("secret"), path("work")).unwrap();
        file.write("", "receipt").unwrap();
        file.write(".intent", "intent").unwrap();
        assert_eq!(fs::read_to_string(path("secret/target")).unwrap(), "keep");
        assert_eq!(fs::read_dir(path("secret")).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(path("moved/run.receipt")).unwrap(), "receipt");
        assert_eq!(fs::read_to_string(path("moved/run.receipt.intent")).unwrap(), "intent");
        assert_eq!(fs::read_dir(path("moved")).unwrap().count(), 2, "no draft remains");
    }

    #[test]
    fn path_that_is_no_file_is_refused_and_failed_write_leaves_nothing() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("run.receipt");
        for bad in [Path::new("/"), Path::new(".."), place.path(), &place.path().join("new/"), &place.path().join("no/file")] {
            assert!(ReceiptFile::at(bad).is_err(), "{}", bad.display());
        }
        let file = ReceiptFile::at(&directory).unwrap();
        fs::create_dir(&directory).unwrap();
        assert!(file.write("", "receipt").unwrap_err().to_string().contains("run.receipt: "));
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }
}
