//! The host's side of `sandbox cp`. A payload may have created files in a workspace, so a symbolic link there must not redirect a
//! copy.

use super::failure::file_remedy;
use agentd_core::escape;
use agentd_log::LogFailure as _;
use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::fd::OwnedFd,
    path::Path,
};

/// The maximum size of a file that the daemon copies, in bytes.
const MAX_STDIN: u64 = 1 << 30;

/// Opens a file to copy into a sandbox. Symbolic links are not followed, because a link could lead to a file that the user does
/// not want to copy.
///
/// # Errors
/// The message for the user.
pub(crate) fn from_host(from: &Path) -> Result<OwnedFd, String> {
    // Non-blocking, because opening a FIFO that a payload created would wait for a writer.
    let file = open(from, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY).map_err(|errno| refusal(from, errno))?;
    let stat = rustix::fs::fstat(&file).map_err(|errno| refusal(from, errno))?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(format!("copy {}: not a regular file — use the path of a regular file", from.display()));
    }
    Ok(file)
}

/// Reads standard input to its end. One byte more than the maximum shows the daemon that the content is too long.
///
/// # Errors
/// Standard input cannot be read, or its content does not fit into memory.
pub(crate) fn from_stdin() -> io::Result<OwnedFd> {
    let mut memory = File::from(rustix::fs::memfd_create("stdin", rustix::fs::MemfdFlags::CLOEXEC)?);
    io::copy(&mut io::stdin().lock().take(MAX_STDIN + 1), &mut memory)?;
    memory.rewind()?;
    Ok(memory.into())
}

/// Writes a file from a sandbox to `to`, or into the directory `to` under its own name. The content goes to a new file, which is
/// renamed when it is complete. A regular file or link with that name is replaced, not written to.
///
/// # Errors
/// The message for the user.
pub(crate) fn to_host(content: &mut File, own: Option<&OsStr>, to: &Path) -> Result<(), String> {
    let (folder, name) = match (open(to, OFlags::PATH | OFlags::DIRECTORY), own) {
        (Ok(folder), Some(own)) => (folder, own.to_os_string()),
        (Ok(_), None) => return Err(format!("copy to {}: is a directory — use the path of a file in it", to.display())),
        // `to` is a link to a directory, into which a plain `cp` would write.
        (Err(_), _) if to.is_dir() => return Err(refusal(to, Errno::LOOP)),
        (Err(_), _) => {
            let name = to.file_name().ok_or_else(|| {
                format!("copy to {}: not the path of a file — end the path with the name of a file", to.display())
            })?;
            let folder = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let opened = open(folder, OFlags::PATH | OFlags::DIRECTORY).map_err(|errno| refusal(folder, errno))?;
            if to.as_os_str().as_encoded_bytes().ends_with(b"/") {
                return Err(refusal(to, Errno::NOENT));
            }
            (opened, name.to_os_string())
        }
    };
    let failed = |error: io::Error| format!("copy to {}: {error}{}", to.display(), file_remedy(&error));
    let mode = mode_in_place(&folder, &name).map_err(|errno| failed(errno.into()))?;
    let (made, new) = create(&folder).map_err(|errno| failed(errno.into()))?;
    let written = write(content, made, mode).and_then(|()| Ok(rustix::fs::renameat(&folder, &new, &folder, &name)?));
    if written.is_err() {
        // Only the first error is reported.
        rustix::fs::unlinkat(&folder, &new, AtFlags::empty()).or_warn("remove unfinished copy", &new);
    }
    written.map_err(failed)
}

/// Returns the mode of the regular file to replace, if there is one. Only regular files and links may be replaced.
fn mode_in_place(folder: &OwnedFd, name: &OsStr) -> rustix::io::Result<Option<Mode>> {
    let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        stat => stat?,
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(Some(Mode::from_raw_mode(stat.st_mode & 0o777))),
        FileType::Symlink => Ok(None),
        FileType::Directory => Err(Errno::ISDIR),
        // A FIFO or device is neither written to nor replaced.
        _ => Err(Errno::EXIST),
    }
}

/// Creates a file with a random name in `folder`; returns the file and its name.
fn create(folder: &OwnedFd) -> rustix::io::Result<(File, OsString)> {
    let mut random = [0; 8];
    getrandom(&mut random, GetRandomFlags::empty())?;
    let name = OsString::from(format!(".agentd-cp-{:016x}", u64::from_ne_bytes(random)));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok((rustix::fs::openat(folder, &name, flags, Mode::from_raw_mode(0o666))?.into(), name))
}

fn write(content: &mut File, mut made: File, mode: Option<Mode>) -> io::Result<()> {
    io::copy(content, &mut made)?;
    made.flush()?;
    if let Some(mode) = mode {
        rustix::fs::fchmod(&made, mode)?;
    }
    Ok(())
}

/// Opens a path without following any symbolic link.
fn open(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
}

/// Returns the message for a path that could not be opened, with the path to use instead.
fn refusal(path: &Path, errno: Errno) -> String {
    // With `O_DIRECTORY`, a link as the last component fails with `ENOTDIR`.
    let is_link = matches!(errno, Errno::LOOP | Errno::NOTDIR);
    let Some(link) = path.ancestors().filter(|part| is_link && part.is_symlink()).last() else {
        let error = io::Error::from(errno);
        return format!("copy: open {}: {error}{}", path.display(), file_remedy(&error));
    };
    let leads = link.canonicalize().map_or_else(|error| error.to_string(), |to| escape::name(&to).to_string());
    format!(
        "copy: open {}: {} is a symbolic link, which is not followed — use the path to which it leads ({leads})",
        path.display(),
        link.display(),
    )
}

/// Returns the message for two paths on the host.
pub(crate) fn without_sandbox(from: &Path, to: &Path) -> String {
    let paths = [from, to].map(|path| path.to_string_lossy());
    // A path in a sandbox is absolute.
    let relative = paths.iter().find_map(|path| path.split_once(':').filter(|(name, _)| !name.contains('/')));
    match relative {
        Some((name, path)) => format!("copy: {name}:{path}: not an absolute path in the sandbox — write {name}:/{path}"),
        None => "copy: neither FROM nor TO is in a sandbox — write NAME:PATH for one of them, as in dev:/tmp/file".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
        path::PathBuf,
    };

    #[test]
    fn from_host_of_fifo_fails_without_waiting() {
        let folder = folder();
        rustix::fs::mknodat(CWD, folder.at("fifo"), FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(from_host(&folder.at("fifo")).unwrap_err().contains("not a regular file"));
        assert!(from_host(folder.0.path()).unwrap_err().contains("not a regular file"));
    }

    struct Folder(tempfile::TempDir);

    fn folder() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    impl Folder {
        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn copy(&self, name: &str) -> Result<(), String> {
            let mut content = tempfile::tempfile().unwrap();
            content.write_all(b"inside").unwrap();
            content.rewind().unwrap();
            to_host(&mut content, Some(OsStr::new("own")), &self.at(name))
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<_> =
                fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    #[test]
    fn copy_to_name_or_directory_creates_new_file() {
        let folder = folder();
        fs::create_dir(folder.at("dir")).unwrap();
        fs::write(folder.at("old"), "old").unwrap();
        fs::set_permissions(folder.at("old"), fs::Permissions::from_mode(0o750)).unwrap();
        fs::hard_link(folder.at("old"), folder.at("other")).unwrap();
        for name in ["new", "old", "dir"] {
            folder.copy(name).unwrap();
        }
        for name in ["new", "old", "dir/own"] {
            assert_eq!(fs::read(folder.at(name)).unwrap(), b"inside", "{name}");
        }
        assert_eq!(fs::metadata(folder.at("old")).unwrap().permissions().mode() & 0o7777, 0o750);
        assert_eq!(fs::read(folder.at("other")).unwrap(), b"old", "the other hard link keeps the old content");
        assert_eq!(folder.names(), ["dir", "new", "old", "other"]);
    }

    #[test]
    fn copy_through_link_fails_and_link_itself_is_replaced() {
        let folder = folder();
        fs::create_dir(folder.at("secret")).unwrap();
        fs::write(folder.at("secret/key"), "mine").unwrap();
        symlink("secret", folder.at("dir")).unwrap();
        symlink("secret/key", folder.at("link")).unwrap();
        for name in ["dir/key", "dir/new", "dir"] {
            let error = folder.copy(name).unwrap_err();
            assert!(error.contains("symbolic link") && error.contains("use the path"), "{name}: {error}");
        }
        folder.copy("link").unwrap();
        assert!(!folder.at("link").is_symlink());
        assert_eq!(fs::read(folder.at("secret/key")).unwrap(), b"mine");
        assert_eq!(fs::read_dir(folder.at("secret")).unwrap().count(), 1);
        assert!(from_host(&folder.at("dir/key")).unwrap_err().contains("symbolic link"));
    }

    #[test]
    fn refused_copy_error_has_remedy() {
        let folder = folder();
        rustix::fs::mknodat(CWD, folder.at("fifo"), FileType::Fifo, 0o600.into(), 0).unwrap();
        fs::create_dir_all(folder.at("dir/own")).unwrap();
        fs::write(folder.at("file"), "").unwrap();
        symlink("dir", folder.at("link")).unwrap();
        for (name, remedy) in [
            ("missing/file", "create the directory"),
            ("missing/", "create the directory"),
            ("file/name", "use a path whose directories exist"),
            ("fifo", "remove the existing object"),
            ("dir", "remove the directory, or use another name"),
            ("link/x", "use the path to which it leads"),
        ] {
            let error = folder.copy(name).unwrap_err();
            let (what, to_do) = error.split_once(" — ").unwrap_or_else(|| panic!("{name}: {error}"));
            assert!(what.starts_with("copy") && to_do.contains(remedy), "{name}: {error}");
        }
        for (name, remedy) in [("missing", "check the path"), ("dir", "use the path of a regular file"), ("fifo", "use the path")]
        {
            let error = from_host(&folder.at(name)).unwrap_err();
            assert!(
                error.starts_with("copy") && error.split_once(" — ").is_some_and(|(_, to_do)| to_do.contains(remedy)),
                "{error}"
            );
        }
        assert!(!folder.at("missing").exists());
    }

    #[test]
    fn copy_to_fifo_or_existing_directory_changes_nothing() {
        let folder = folder();
        rustix::fs::mknodat(CWD, folder.at("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        fs::create_dir_all(folder.at("dir/own")).unwrap();
        for name in ["fifo", "dir", "missing/file"] {
            assert!(folder.copy(name).is_err(), "{name}");
        }
        assert!(folder.names().iter().all(|name| !name.starts_with(".agentd-cp")), "{:?}", folder.names());
    }
}
