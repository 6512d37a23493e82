//! Reads and applies the metadata of files: owner, mode, times and extended attributes.

use super::open::{in_descriptor, kind};
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
pub(crate) type ExtendedAttributes = Vec<(OsString, Vec<u8>)>;

/// The metadata of a file.
#[derive(Clone)]
pub(crate) struct Metadata {
    pub(crate) stat: Stat,
    pub(crate) extended: ExtendedAttributes,
}

impl Metadata {
    /// Removes the attributes that overlayfs wrote for its own use.
    pub(crate) fn keep_own(&mut self) {
        self.extended.retain(|(attribute, _)| !is_of_overlayfs(attribute));
    }
}

/// Reads the metadata of `name` in `directory`. If the caller changed the mode to make the file readable, `stat` must be the
/// result from before that change.
pub(crate) fn read_metadata(directory: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> Result<Metadata, Errno> {
    Ok(Metadata { stat: *stat, extended: extended(&in_descriptor(directory, name))? })
}

/// Applies owner, attributes, mode and times to `name` in `directory`, in this order: changing the owner clears capabilities and
/// set-id bits, and a mode may forbid setting attributes. No link is followed.
pub(crate) fn apply_metadata(directory: BorrowedFd<'_>, name: &OsStr, metadata: &Metadata) -> Result<(), Errno> {
    let Metadata { stat, extended } = metadata;
    let made = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if (made.st_uid, made.st_gid) != (stat.st_uid, stat.st_gid) {
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    let path = in_descriptor(directory, name);
    for (attribute, value) in extended {
        match rustix::fs::lsetxattr(&path, attribute, value, XattrFlags::empty()) {
            Ok(()) => {}
            // Only root may set this attribute. An unprivileged caller finds such attributes only if root of a user namespace set
            // them, and they take effect only there. The mount options of a sandbox disable them.
            Err(Errno::PERM) if !attribute.as_bytes().starts_with(b"user.") => {}
            Err(errno) => return Err(errno),
        }
    }
    if kind(stat) != FileType::Symlink {
        rustix::fs::chmodat(directory, name, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())?;
    }
    rustix::fs::utimensat(directory, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

/// Returns true for overlayfs's own attributes: `user.*` for a mount in a user namespace, `trusted.*` for one outside.
pub(crate) fn is_of_overlayfs(attribute: &OsStr) -> bool {
    let name = attribute.as_bytes();
    name.starts_with(b"user.overlay.") || name.starts_with(b"trusted.overlay.")
}

/// Returns true if a directory hides its contents in the layers below.
pub(crate) fn is_opaque(directory: BorrowedFd<'_>, name: &OsStr) -> Result<bool, Errno> {
    let path = in_descriptor(directory, name);
    for attribute in ["user.overlay.opaque", "trusted.overlay.opaque"] {
        // One byte longer than the expected value, so that a longer value is not mistaken for it.
        let mut value = [0; 2];
        match rustix::fs::lgetxattr(&path, attribute, &mut value) {
            Ok(1) if value[0] == b'y' => return Ok(true),
            Ok(_) | Err(Errno::NODATA | Errno::RANGE | Errno::NOTSUP | Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(false)
}

/// Marks a directory as opaque for mounts inside and outside a user namespace.
pub(crate) fn make_opaque(directory: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    let path = in_descriptor(directory, name);
    if rustix::process::geteuid().is_root() {
        match rustix::fs::lsetxattr(&path, "trusted.overlay.opaque", b"y", XattrFlags::empty()) {
            // EPERM: root of a user namespace. A mount in that namespace reads the `user.*` attribute.
            Ok(()) | Err(Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
    }
    rustix::fs::lsetxattr(&path, "user.overlay.opaque", b"y", XattrFlags::empty())
}

/// Reads the extended attributes of a file. An attribute that is removed concurrently is omitted.
fn extended(path: &Path) -> Result<ExtendedAttributes, Errno> {
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

/// Repeats the call with a larger buffer until the result fits.
fn filled(call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    loop {
        match call(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            // Neither a value nor a list of names is longer than 64 KiB (`man 7 xattr`).
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
