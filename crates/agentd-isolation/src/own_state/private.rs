//! Opens a folder that only its owner can write to, one path component at a time and without following links, and accesses files
//! in it.

use agentd_log::LogFailure as _;
use rustix::{
    fs::{AtFlags, Mode, OFlags, Stat},
    io::Errno,
    rand::GetRandomFlags,
};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};
use zeroize::Zeroizing;

/// The maximum number of bytes that are read from a file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Opens the folder `below` in `base`, and creates its missing components. `base` must exist.
///
/// # Errors
/// `EACCES` if a component belongs to another user or is writable by others; `ELOOP` or `ENOTDIR` if a component is a symbolic
/// link.
pub(crate) fn open(base: &Path, below: &[&str]) -> Result<OwnedFd, Errno> {
    walk(base, below, true)
}

/// Opens the folder `below` in `base`.
///
/// # Errors
/// As for [`open`], and `ENOENT` if a component is missing.
pub(crate) fn find(base: &Path, below: &[&str]) -> Result<OwnedFd, Errno> {
    walk(base, below, false)
}

fn walk(base: &Path, below: &[&str], create: bool) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Only the administrator controls the parents of home directories and /run, so links in `base` are followed.
    let mut folder = rustix::fs::open(base, flags, Mode::empty())?;
    check(&folder)?;
    for name in below {
        if create {
            match rustix::fs::mkdirat(&folder, *name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
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
    agentd_disk::is_own_uid(stat.st_uid) && stat.st_mode & 0o022 == 0
}

/// Reads at most 1 MiB of the regular file `name` in `folder`.
///
/// # Errors
/// `EACCES` if the file is not regular, belongs to another user or is writable by others; otherwise the error of opening or
/// reading it.
pub fn read(folder: BorrowedFd<'_>, name: &str) -> io::Result<Vec<u8>> {
    read_unless(folder, name, 0)
}

/// Reads at most 1 MiB of the regular file `name` in `folder`, to which nobody but its owner has access. The content is
/// overwritten in memory when it is dropped.
///
/// # Errors
/// As for [`read`], and `EACCES` if group or others have access to the file.
pub fn read_secret(folder: BorrowedFd<'_>, name: &str) -> io::Result<Zeroizing<Vec<u8>>> {
    read_unless(folder, name, 0o077).map(Zeroizing::new)
}

/// Reads a file unless its mode has one of the bits `refused`.
fn read_unless(folder: BorrowedFd<'_>, name: &str, refused: u32) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() || !is_own(&stat) || stat.st_mode & refused != 0 {
        return Err(Errno::ACCESS.into());
    }
    // The buffer is larger than the file, so that one read returns the content and the next one the end, without a second copy.
    let size = u64::try_from(stat.st_size).unwrap_or(0).min(MAX_FILE_BYTES);
    let mut content = Vec::with_capacity(usize::try_from(size + 1).unwrap_or(0));
    File::from(file).take(MAX_FILE_BYTES).read_to_end(&mut content)?;
    Ok(content)
}

/// Replaces the file `name` in `folder` atomically. Only the owner of the file may access it.
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
        remove(folder, &draft);
    }
    written
}

/// Creates the file `name` in `folder` atomically, with its whole content. Only the owner of the file may access it.
///
/// # Errors
/// `EEXIST` if the name exists; otherwise the error of writing the file or of linking it to its name.
pub fn create(folder: BorrowedFd<'_>, name: &str, content: &[u8]) -> io::Result<()> {
    // Writers in several PID namespaces may have the same pid. Sharing a draft would let one writer change the file of another.
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, GetRandomFlags::empty())?;
    let draft = format!("{name}.{:016x}.new", u64::from_ne_bytes(random));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, &draft, flags, Mode::RUSR | Mode::WUSR)?;
    let written = File::from(file).write_all(content);
    // Unlike a rename, a link never replaces a file.
    let written = written.and_then(|()| Ok(rustix::fs::linkat(folder, &draft, folder, name, AtFlags::empty())?));
    remove(folder, &draft);
    written
}

fn remove(folder: BorrowedFd<'_>, draft: &str) {
    rustix::fs::unlinkat(folder, draft, AtFlags::empty()).or_debug("remove draft", draft);
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

    #[test]
    fn created_file_is_private_complete_and_never_replaced() {
        let base = tempfile::tempdir().unwrap();
        let folder = open(base.path(), &["a"]).unwrap();
        create(folder.as_fd(), "file", b"first").unwrap();
        let again = create(folder.as_fd(), "file", b"second").unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(*read_secret(folder.as_fd(), "file").unwrap(), b"first");
        let path = base.path().join("a/file");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::read_dir(base.path().join("a")).unwrap().count(), 1);
        std::fs::remove_file(&path).unwrap();
        symlink(base.path().join("elsewhere"), &path).unwrap();
        assert!(create(folder.as_fd(), "file", b"third").is_err());
        assert!(!base.path().join("elsewhere").exists());
    }

    #[test]
    fn secret_that_others_can_read_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let folder = open(base.path(), &["a"]).unwrap();
        create(folder.as_fd(), "file", b"secret").unwrap();
        for mode in [0o640, 0o604, 0o610] {
            std::fs::set_permissions(base.path().join("a/file"), PermissionsExt::from_mode(mode)).unwrap();
            assert!(read_secret(folder.as_fd(), "file").is_err(), "{mode:o}");
        }
        std::fs::set_permissions(base.path().join("a/file"), PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(*read_secret(folder.as_fd(), "file").unwrap(), b"secret");
    }

    #[test]
    fn missing_folder_is_found_by_no_lookup_and_not_created() {
        let base = tempfile::tempdir().unwrap();
        assert_eq!(find(base.path(), &["a"]).err(), Some(Errno::NOENT));
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 0);
        open(base.path(), &["a"]).unwrap();
        find(base.path(), &["a"]).unwrap();
    }
}
