//! Reading and writing of name files, in a directory that a payload or the author of an image may have filled.

use super::{MAX_FILE_BYTES, Name};
use crate::{
    ErrnoContext,
    mount::tree::{self, open_beneath},
};
use agentd_core::{Control, ControlError};
use agentd_log::LogFailure as _;
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

/// Largest size of a file for which memory is reserved before the file is read.
const MAX_RESERVED: usize = 16 << 10;

/// The origin of a directory's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filled {
    /// Root of this host: links are followed.
    ByTheHost,
    /// An untrusted party: no link is followed.
    ByAnybody,
}

/// The current state of a name.
pub(super) enum Present {
    /// The name is free.
    Nothing,
    /// A file with this content.
    Content(Vec<u8>),
    /// An object that is not read, with the reason: a link, a non-regular or too long file, or a lack of rights.
    Other(String),
}

/// Reads the file `name` of `etc`, at most [`MAX_FILE_BYTES`] bytes. Never blocks on a FIFO.
pub(super) fn read(etc: &OwnedFd, name: &str, filled: Filled) -> Result<Present, ControlError> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = match filled {
        Filled::ByTheHost => rustix::fs::openat(etc, name, flags, Mode::empty()),
        Filled::ByAnybody => open_beneath(etc, Path::new(name), flags),
    };
    let file = match opened {
        Ok(file) => file,
        // Includes dangling links on the host.
        Err(Errno::NOENT) => return Ok(Present::Nothing),
        Err(errno) => return Ok(Present::Other(errno.to_string())),
    };
    let stat = rustix::fs::fstat(&file).during(Control::Mounts, || format!("stat /etc/{name}"))?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Ok(Present::Other("the object is not a regular file".to_owned()));
    }
    // Reserves memory for the usual content, because a reader with a limit does not query the size of the file.
    let size = usize::try_from(stat.st_size).unwrap_or_default().min(MAX_RESERVED);
    let mut content = Vec::with_capacity(size + 1);
    // Reads one byte more than allowed, to detect a longer file: the file may grow while it is read.
    File::from(file)
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut content)
        .during(Control::Mounts, || format!("read /etc/{name}"))?;
    if content.len() as u64 > MAX_FILE_BYTES {
        return Ok(Present::Other(format!("the file is longer than {MAX_FILE_BYTES} bytes")));
    }
    Ok(Present::Content(content))
}

/// Creates the file `name` in `etc`. The directory must not contain this name yet.
pub(super) fn create(etc: &OwnedFd, name: Name, content: &[u8]) -> Result<(), ControlError> {
    write_new(etc, name.file(), content).during(Control::Mounts, || format!("write /etc/{}", name.file()))
}

/// Replaces the file `name` in `etc` atomically.
///
/// # Errors
/// `EISDIR` if `name` is a directory, or another errno of writing the file.
pub(super) fn replace(etc: &OwnedFd, name: Name, content: &[u8]) -> Result<(), ControlError> {
    let name = name.file();
    let draft = format!(".{name}.agentd");
    // Removes the draft of an interrupted write, or an object that a payload has put in its place.
    let written = agentd_disk::erase(etc.as_fd(), draft.as_ref()).map_err(io::Error::from).and_then(|()| {
        write_new(etc, &draft, content)?;
        Ok(rustix::fs::renameat(etc, &draft, etc, name)?)
    });
    if written.is_err() {
        rustix::fs::unlinkat(etc, &draft, AtFlags::empty()).or_debug("remove draft in /etc", &draft);
    }
    written.during(Control::Mounts, || format!("write /etc/{name}"))
}

fn write_new(etc: &OwnedFd, name: &str, content: &[u8]) -> io::Result<()> {
    let new = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    File::from(rustix::fs::openat(etc, name, new, Mode::from(0o644))?).write_all(content)
}

/// Opens the directory `etc` of a root. Fails if it is a symbolic link.
pub(super) fn etc_of(root: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    tree::open_beneath(root, Path::new("etc"), OFlags::RDONLY | OFlags::DIRECTORY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn directory() -> (tempfile::TempDir, OwnedFd) {
        let place = tempfile::tempdir().unwrap();
        let etc = File::open(place.path()).unwrap().into();
        (place, etc)
    }

    #[test]
    fn name_file_replaces_anything_but_a_directory() {
        let (place, etc) = directory();
        let path = place.path().join(Name::Host.file());
        // A payload may have taken the name of the draft.
        fs::create_dir_all(place.path().join(format!(".{}.agentd/below", Name::Host.file()))).unwrap();
        fs::write(place.path().join("target"), "kept").unwrap();
        std::os::unix::fs::symlink("target", &path).unwrap();
        replace(&etc, Name::Host, b"own").unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(fs::read_to_string(&path).unwrap(), "own");
        assert_eq!(fs::read_to_string(place.path().join("target")).unwrap(), "kept");

        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(replace(&etc, Name::Host, b"own").unwrap_err().errno, Some(libc::EISDIR));
        let mut left = agentd_disk::names(etc.as_fd()).unwrap();
        left.sort();
        assert_eq!(left, [Name::Host.file(), "target"]);
    }
}
