//! What is known of a file beside its content: owner, mode, times, extended attributes; read from one, given to another.

use super::{in_descriptor, kind};
use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    os::{
        fd::BorrowedFd,
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::Path,
};

/// Extended attributes by name, sorted.
pub(crate) type Extended = Vec<(OsString, Vec<u8>)>;

/// What a file wears.
#[derive(Clone)]
pub(crate) struct Dress {
    pub(crate) stat: Stat,
    pub(crate) extended: Extended,
}

impl Dress {
    /// Leaves out what overlayfs noted for itself.
    pub(crate) fn keep_own(&mut self) {
        self.extended.retain(|(attribute, _)| !is_of_overlayfs(attribute));
    }
}

/// What `name` in `directory` wears, of which `stat` is known. Where the mode is changed to read it, `stat` is of before.
pub(crate) fn dress_of(directory: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> Result<Dress, Errno> {
    Ok(Dress { stat: *stat, extended: extended(&in_descriptor(directory, name))? })
}

/// Gives what is called `name` in `directory` the owner, attributes, mode and times of another, in this order: a change of owner clears
/// capabilities and set-id bits, and a mode may forbid to set attributes. No link is followed.
pub(crate) fn dress_like(directory: BorrowedFd<'_>, name: &OsStr, dress: &Dress) -> Result<(), Errno> {
    let Dress { stat, extended } = dress;
    let made = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if (made.st_uid, made.st_gid) != (stat.st_uid, stat.st_gid) {
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    let path = in_descriptor(directory, name);
    for (attribute, value) in extended {
        match rustix::fs::lsetxattr(&path, attribute, value, XattrFlags::empty()) {
            Ok(()) => {}
            // What only root may give: for an ordinary user it was given by a root of a user namespace, where it has an effect. A
            // sandbox is mounted so that it has none.
            Err(Errno::PERM) if !attribute.as_bytes().starts_with(b"user.") => {}
            Err(errno) => return Err(errno),
        }
    }
    if kind(stat) != FileType::Symlink {
        rustix::fs::chmodat(directory, name, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())?;
    }
    rustix::fs::utimensat(directory, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

/// Overlayfs' own attributes: `user.*` for a mount in a user namespace, `trusted.*` for one outside.
pub(crate) fn is_of_overlayfs(attribute: &OsStr) -> bool {
    let name = attribute.as_bytes();
    name.starts_with(b"user.overlay.") || name.starts_with(b"trusted.overlay.")
}

/// Whether a directory hides what the layers below have in it.
pub(crate) fn is_opaque(directory: BorrowedFd<'_>, name: &OsStr) -> Result<bool, Errno> {
    let path = in_descriptor(directory, name);
    for attribute in ["user.overlay.opaque", "trusted.overlay.opaque"] {
        // Longer than what is meant, so that what only begins so is not taken for it.
        let mut value = [0; 2];
        match rustix::fs::lgetxattr(&path, attribute, &mut value) {
            Ok(1) if value[0] == b'y' => return Ok(true),
            Ok(_) | Err(Errno::NODATA | Errno::RANGE | Errno::NOTSUP | Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(false)
}

/// Makes a directory hide what the layers below have in it, whoever mounts it.
pub(crate) fn make_opaque(directory: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    let path = in_descriptor(directory, name);
    if rustix::process::geteuid().is_root() {
        match rustix::fs::lsetxattr(&path, "trusted.overlay.opaque", b"y", XattrFlags::empty()) {
            // Root of a user namespace only: who mounts there reads the other.
            Ok(()) | Err(Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
    }
    rustix::fs::lsetxattr(&path, "user.overlay.opaque", b"y", XattrFlags::empty())
}

/// The extended attributes of a file. One that goes away meanwhile was not there.
fn extended(path: &Path) -> Result<Extended, Errno> {
    let list = match filled(|buffer| rustix::fs::llistxattr(path, buffer)) {
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut extended = Vec::new();
    for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = OsString::from_vec(name.to_vec());
        match filled(|buffer| rustix::fs::lgetxattr(path, &name, buffer)) {
            Ok(value) => extended.push((name, value)),
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    extended.sort();
    Ok(extended)
}

/// Calls until the buffer is big enough.
fn filled(call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    loop {
        match call(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            // No value and no list is longer than 64 KiB (`man 7 xattr`).
            Err(Errno::RANGE) if buffer.len() <= 64 << 10 => buffer.resize(buffer.len() * 4, 0),
            Err(errno) => return Err(errno),
        }
    }
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds.try_into().unwrap_or(0) };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}
