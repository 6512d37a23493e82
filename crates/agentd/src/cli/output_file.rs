//! Files that the caller names and agentd writes at the end: receipts and metrics.
//!
//! The directory may be one that the command can change. It is therefore opened before the command starts: a symbolic link that
//! the command puts in its place has no effect. A link that an earlier command may have created is refused. A file is written
//! under another name first, and then renamed, so that a link at its place is replaced and not followed.

use super::failure::Failure;
use agentd_isolation::grants::{self, Guard, Links};
use agentd_kernel::object;
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, fsync, openat, renameat, statat, unlinkat},
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};
use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// The name of the file with the intent is that of the receipt, and this suffix.
pub(super) const INTENT: &str = ".intent";

/// What a file contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OutputKind {
    /// A receipt, and the file of its intent in the same directory.
    Receipt,
    /// Metrics.
    #[cfg(feature = "policy")]
    Metrics,
}

impl OutputKind {
    /// Returns the word for messages, which is also the name of the option.
    fn word(self) -> &'static str {
        match self {
            Self::Receipt => "receipt",
            #[cfg(feature = "policy")]
            Self::Metrics => "metrics",
        }
    }

    /// Returns the suffixes of the names of all files.
    fn suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Receipt => &["", INTENT],
            #[cfg(feature = "policy")]
            Self::Metrics => &[""],
        }
    }
}

/// The place of a file, and of the files that belong to it in the same directory.
pub(super) struct OutputFile {
    kind: OutputKind,
    directory: OwnedFd,
    name: OsString,
    path: PathBuf,
}

impl OutputFile {
    /// Opens the directory in which the file will be written.
    ///
    /// # Errors
    /// The path names no file, or an object that is not a regular file, or its directory cannot be opened. With
    /// [`Links::Refuse`], the path of the directory has a link that a command may have created.
    pub fn at(kind: OutputKind, path: &Path, links: Links) -> Result<Self, Failure> {
        let is_directory = path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/");
        let Some(name) = path.file_name().filter(|_| !is_directory) else {
            let word = kind.word();
            return Err(format!("{word}: {}: not the path of a file — name a file with --{word}", path.display()).into());
        };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let directory = open(kind, parent, links)?;
        let file = Self { kind, directory, name: name.to_owned(), path: path.to_path_buf() };
        kind.suffixes().iter().try_for_each(|suffix| file.refuse_other_objects(&file.name_with(suffix)))?;
        Ok(file)
    }

    fn name_with(&self, suffix: &str) -> OsString {
        let mut name = self.name.clone();
        name.push(suffix);
        name
    }

    /// Refuses to replace a device, a link or any other object that is not a regular file.
    fn refuse_other_objects(&self, name: &OsStr) -> Result<(), Failure> {
        let (word, path) = (self.kind.word(), self.path.with_file_name(name));
        match statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => Ok(()),
            Ok(_) => Err(format!("{word}: {}: exists and is not a regular file — name another file", path.display()).into()),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(format!("{word}: {}: {} — name another file", path.display(), io::Error::from(errno)).into()),
        }
    }

    /// Writes the file whose name is the given one plus `suffix`, durably.
    ///
    /// # Errors
    /// The file cannot be written. The file that it would replace is unchanged.
    pub fn write(&self, suffix: &str, text: &str) -> Result<(), Failure> {
        let name = self.name_with(suffix);
        self.replace(&name, text.as_bytes()).map_err(|error| {
            let (word, path) = (self.kind.word(), self.path.with_file_name(&name));
            format!("{word}: write {}: {error} — free space, or check the permissions of its directory", path.display()).into()
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

/// Opens the directory at the path.
fn open(kind: OutputKind, path: &Path, links: Links) -> Result<OwnedFd, Failure> {
    let word = kind.word();
    let failed = |error: io::Error| format!("{word}: open {}: {error} — create the directory", path.display());
    let absolute = std::path::absolute(path).map_err(failed)?;
    fs::metadata(&absolute).map_err(failed)?;
    let found = grants::find(&absolute, &Guard::host(), links).map_err(|error| format!("{word}: {error}"))?;
    let found = object::reopen(&found.path, &found.object)
        .map_err(|error| format!("{word}: {error} — do not change the directory during the start"))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(&found, ".", flags, Mode::empty()).map_err(|errno| failed(errno.into()))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn objects_other_than_regular_files_are_never_replaced() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        fs::write(path("target"), "keep").unwrap();
        symlink(path("target"), path("link")).unwrap();
        symlink(path("target"), path("new.intent")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), Mode::from_raw_mode(0o600)).unwrap();
        for name in ["link", "new", "pipe"] {
            let refused = OutputFile::at(OutputKind::Receipt, &path(name), Links::Follow).err().unwrap().to_string();
            assert!(refused.contains("is not a regular file — "), "{refused}");
        }
        assert!(OutputFile::at(OutputKind::Receipt, &path("target"), Links::Refuse).is_ok());
    }

    #[cfg(feature = "policy")]
    #[test]
    fn metrics_are_one_file_and_a_link_at_its_place_is_replaced() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        fs::write(path("target"), "keep").unwrap();
        symlink(path("target"), path("metrics.intent")).unwrap();
        let file = OutputFile::at(OutputKind::Metrics, &path("metrics"), Links::Refuse).unwrap();
        symlink(path("target"), path("metrics")).unwrap();
        file.write("", "a 1\n").unwrap();
        assert_eq!(fs::read_to_string(path("metrics")).unwrap(), "a 1\n");
        assert!(path("metrics").symlink_metadata().unwrap().is_file());
        assert_eq!(fs::read_to_string(path("target")).unwrap(), "keep");
        let refused = OutputFile::at(OutputKind::Metrics, &path("metrics.intent"), Links::Refuse).err().unwrap().to_string();
        assert!(refused.starts_with("metrics: ") && refused.contains("is not a regular file"), "{refused}");
    }

    #[test]
    fn link_that_a_command_may_have_created_is_refused() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("other")).unwrap();
        symlink("other", place.path().join("out")).unwrap();
        let receipt = place.path().join("out/run.receipt");
        let refused = OutputFile::at(OutputKind::Receipt, &receipt, Links::Refuse).err().unwrap().to_string();
        assert!(refused.contains("is a symbolic link to other, in a directory that a sandbox may have changed"), "{refused}");
        OutputFile::at(OutputKind::Receipt, &receipt, Links::Follow).unwrap().write("", "receipt").unwrap();
        assert_eq!(fs::read_to_string(place.path().join("other/run.receipt")).unwrap(), "receipt");
    }

    #[test]
    fn directory_and_links_that_are_put_in_place_later_are_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        for name in ["work", "secret"] {
            fs::create_dir(path(name)).unwrap();
        }
        fs::write(path("secret/target"), "keep").unwrap();
        let file = OutputFile::at(OutputKind::Receipt, &path("work/run.receipt"), Links::Refuse).unwrap();
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
            assert!(OutputFile::at(OutputKind::Receipt, bad, Links::Refuse).is_err(), "{}", bad.display());
        }
        let file = OutputFile::at(OutputKind::Receipt, &directory, Links::Refuse).unwrap();
        fs::create_dir(&directory).unwrap();
        assert!(file.write("", "receipt").unwrap_err().to_string().contains("run.receipt: "));
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }
}
