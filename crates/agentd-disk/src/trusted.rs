//! Reads files that decide what agentd does, such as policies: from folders that nobody but root and this user can change.

use crate::{
    directory::names,
    error::{DiskError, FileContext as _},
    owner::is_own_uid,
};
use rustix::{
    fs::{FileType, Mode, OFlags, Stat, fstat, openat},
    io::Errno,
};
use std::{
    fs::{self, File},
    io::Read as _,
    os::{fd::AsFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

/// The largest number of files in a folder.
const MAX_FILES: usize = 256;

/// The largest size of a file in bytes.
const MAX_FILE: u64 = 1 << 20;

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedFile {
    /// The path, for messages.
    pub name: String,
    /// The text.
    pub text: String,
}

/// The reason why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file operation failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Somebody else may change a file or directory.
    #[error("{path:?}: {problem}")]
    Untrusted {
        /// The file or directory.
        path: PathBuf,
        /// The problem and the remedy.
        problem: &'static str,
    },
    /// A file or folder is too large.
    #[error("{path:?}: more than {limit} — split it, or remove a part")]
    TooLarge {
        /// The file or directory.
        path: PathBuf,
        /// The limit.
        limit: &'static str,
    },
}

/// Reads all files of the folder whose names have the extension, in the order of their names.
///
/// # Errors
/// [`TrustError`] if somebody other than root and this user may change a file, the folder or a directory above it, or if a file
/// is a link or not a regular file.
pub fn read_trusted_folder(folder: &Path, extension: &str) -> Result<Vec<TrustedFile>, TrustError> {
    let resolved = resolve(folder)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(&resolved, flags, Mode::empty()).map_err(|errno| not_opened(&resolved, folder, errno))?;
    check(&fstat(&directory).during("stat", folder)?, folder)?;
    let mut found: Vec<_> = names(directory.as_fd()).during("list", folder)?;
    found.retain(|name| Path::new(name).extension().is_some_and(|found| found == extension));
    found.sort();
    if found.len() > MAX_FILES {
        return Err(TrustError::TooLarge { path: folder.to_owned(), limit: "256 files" });
    }
    found.into_iter().map(|name| read(&directory, Path::new(&name), &folder.join(&name))).collect()
}

/// Reads one file, with the checks of [`read_trusted_folder`].
///
/// # Errors
/// As for [`read_trusted_folder`].
pub fn read_trusted_file(path: &Path) -> Result<TrustedFile, TrustError> {
    read(&rustix::fs::CWD, &resolve(path)?, path)
}

fn read(directory: &impl AsFd, name: &Path, path: &Path) -> Result<TrustedFile, TrustError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::empty()).map_err(|errno| not_opened(path, path, errno))?;
    let stat = fstat(&file).during("stat", path)?;
    let refused = |problem| TrustError::Untrusted { path: path.to_owned(), problem };
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(refused("not a regular file — replace it by a regular file"));
    }
    if stat.st_nlink != 1 {
        return Err(refused("the file has other names (hard links), through which it could be changed — copy the file"));
    }
    check(&stat, path)?;
    let mut text = String::new();
    File::from(file).take(MAX_FILE + 1).read_to_string(&mut text).during("read", path)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(TrustError::TooLarge { path: path.to_owned(), limit: "1 MiB" });
    }
    Ok(TrustedFile { name: path.display().to_string(), text })
}

fn not_opened(opened: &Path, path: &Path, errno: Errno) -> TrustError {
    // `open(2)`: ELOOP or ENOTDIR for a symbolic link with O_NOFOLLOW and O_DIRECTORY.
    if matches!(errno, Errno::LOOP | Errno::NOTDIR) && opened.is_symlink() {
        return TrustError::Untrusted { path: path.to_owned(), problem: "a symbolic link — name the file or directory itself" };
    }
    DiskError { operation: "open", path: path.to_owned(), source: errno.into() }.into()
}

fn check(stat: &Stat, path: &Path) -> Result<(), TrustError> {
    match problem(stat.st_uid, stat.st_mode) {
        Some(problem) => Err(TrustError::Untrusted { path: path.to_owned(), problem }),
        None => Ok(()),
    }
}

/// Returns the problem of a file or directory that a user other than root and this user may change.
fn problem(uid: u32, mode: u32) -> Option<&'static str> {
    if uid != 0 && !is_own_uid(uid) {
        return Some("belongs to another user — chown it to root or to yourself");
    }
    (mode & 0o022 != 0).then_some("writable by its group or by others — run chmod go-w on it")
}

/// Returns the path without links in its directories, all of which were checked: a user who may rename in one of them could
/// replace the files. The last name may still be a link.
fn resolve(path: &Path) -> Result<PathBuf, TrustError> {
    let resolved = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            fs::canonicalize(parent).during("resolve", parent)?.join(name)
        }
        _ => fs::canonicalize(path).during("resolve", path)?,
    };
    for directory in resolved.ancestors().skip(1) {
        let found = fs::symlink_metadata(directory).during("stat", directory)?;
        // In a sticky directory, only the owner of a file may rename it (`inode(7)`).
        let sticky = found.mode() & 0o1000 != 0;
        let mode = if sticky { found.mode() & !0o022 } else { found.mode() };
        if let Some(problem) = problem(found.uid(), mode) {
            return Err(TrustError::Untrusted { path: directory.to_owned(), problem });
        }
    }
    Ok(resolved)
}
