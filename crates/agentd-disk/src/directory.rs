//! Reads directories with untrusted contents.

use rustix::{
    fs::{AtFlags, Dir, Stat},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    os::{fd::BorrowedFd, unix::ffi::OsStringExt},
};

/// Returns the metadata of `name` in `directory`, without following a symbolic link; `None` if the name does not exist.
///
/// # Errors
/// The errno of `fstatat`, except `ENOENT`.
pub fn lstat(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Returns the names in a directory, without `.` and `..`.
///
/// # Errors
/// The errno of opening or reading the directory.
pub fn names(directory: BorrowedFd<'_>) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    Ok(names)
}
