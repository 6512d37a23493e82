//! What is in a directory, of which nothing is believed.

use rustix::{
    fs::{AtFlags, Dir, Stat},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    os::{fd::BorrowedFd, unix::ffi::OsStringExt},
};

/// What is called `name` in `directory`, if anything is. No link is followed.
pub fn look(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The names in a directory.
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
