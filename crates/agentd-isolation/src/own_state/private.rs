//! Opens a folder that only its owner can write to, one path component at a time and without following links, and accesses files
//! in it.

use agentd_log::LogFailure as _;
use rustix::{
    fs::{AtFlags, Mode, OFlags, Stat},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

/// The maximum number of bytes that are read from a file.
const MOST: u64 = 1 << 20;

/// Opens the folder `below` in `base`, and creates its missing components. `base` must exist.
///
/// # Errors
/// `EACCES` if a component belongs to another user or is writable by others; `ELOOP` or `ENOTDIR` if a component is a symbolic
/// link.
pub(crate) fn open(base: &Path, below: &[&str]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Only the administrator controls the parents of home directories and /run, so links in `base` are followed.
    let mut folder = rustix::fs::open(base, flags, Mode::empty())?;
    check(&folder)?;
    for name in below {
        match rustix::fs::mkdirat(&folder, *name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        folder = rustix::fs::openat(&folder, *name, flags | OFlags::NOFOLLOW, Mode::empty())?;
        check(&folder)?;
    }
    Ok(folder)
}

/// Fails with `EACCES` for a file that another user owns, or that group or others can write to.
fn check(opened: &OwnedFd) -> Result<(), Errno> {
    if is_own(&rustix::fs::fstat(opened)?) { Ok(()) } else { Err(Errno::ACCESS) }
}

fn is_own(stat: &Stat) -> bool {
    stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o022 == 0
}

/// Reads at most 1 MiB of the regular file `name` in `folder`.
///
/// # Errors
/// `EACCES` if the file is not regular, belongs to another user or is writable by others; otherwise the error of opening or
/// reading it.
pub fn read(folder: BorrowedFd<'_>, name: &str) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() || !is_own(&stat) {
        return Err(Errno::ACCESS.into());
    }
    // With room for the end of the file, one read returns the content and the next one the end.
    let size = u64::try_from(stat.st_size).unwrap_or(0).min(MOST);
    let mut content = Vec::with_capacity(usize::try_from(size + 1).unwrap_or(0));
    File::from(file).take(MOST).read_to_end(&mut content)?;
    Ok(content)
}

/// Replaces the file `name` in `folder` atomically.
///
/// # Errors
/// Fails if the new content cannot be written or renamed into place. The old file is then unchanged.
pub fn replace(folder: BorrowedFd<'_>, name: &str, content: &[u8]) -> io::Result<()> {
    let draft = format!("{name}.{}.new", std::process::id());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, &draft, flags, Mode::RUSR | Mode::WUSR)?;
    let written = File::from(file).write_all(content);
    let written = written.and_then(|()| Ok(rustix::fs::renameat(folder, &draft, folder, name)?));
    if written.is_err() {
        // The caller gets the error of the write; a failure to remove the draft is only logged.
        rustix::fs::unlinkat(folder, &draft, AtFlags::empty()).or_debug("remove draft", &draft);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;
    use std::os::{
        fd::AsFd,
        unix::fs::{PermissionsExt, symlink},
    };

    #[test]
    fn folder_behind_a_link_is_refused_and_nothing_is_written_through_it() {
        let base = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        symlink(elsewhere.path(), base.path().join(".cache")).unwrap();
        assert!(open(base.path(), &[".cache", "agentd"]).is_err());
        assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
        open(base.path(), &["cache", "agentd"]).unwrap();
    }

    #[test]
    fn folder_that_others_can_write_is_refused() {
        let base = tempfile::tempdir().unwrap();
        std::fs::create_dir(base.path().join("a")).unwrap();
        std::fs::set_permissions(base.path().join("a"), PermissionsExt::from_mode(0o777)).unwrap();
        assert_eq!(open(base.path(), &["a"]).err(), Some(Errno::ACCESS));
    }

    #[test]
    fn folder_of_another_user_is_refused() {
        // Only root can change the owner of a folder.
        if rustix::process::geteuid().is_root() {
            let base = tempfile::tempdir().unwrap();
            std::os::unix::fs::chown(base.path(), Some(65534), None).unwrap();
            assert_eq!(open(base.path(), &["a"]).err(), Some(Errno::ACCESS));
            assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn file_that_is_a_link_or_a_pipe_is_not_read() {
        let base = tempfile::tempdir().unwrap();
        let folder = open(base.path(), &["a"]).unwrap();
        replace(folder.as_fd(), "file", b"content").unwrap();
        assert_eq!(read(folder.as_fd(), "file").unwrap(), b"content");
        symlink("file", base.path().join("a/link")).unwrap();
        rustix::fs::mknodat(CWD, base.path().join("a/pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(read(folder.as_fd(), "link").is_err() && read(folder.as_fd(), "pipe").is_err());
    }
}
