//! Writes new content to a temporary file, which then replaces the file in one step (`rename(2)`).

use crate::{
    error::{ErrorCode, ToolError},
    permissions::Permissions,
    rename::{DirectoryEntry, rename_without_replacing},
    resolve::NamedPlace,
};
use rustix::{
    fs::{AtFlags, Gid, Mode, OFlags, Stat, Uid, fchmod, fchown, fstat, openat, renameat, unlinkat},
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};
use std::{ffi::OsString, fs::File, os::fd::AsFd};

/// A temporary file in the directory of the file that it will replace. It is removed when dropped before the commit. A process
/// that is killed leaves the file: its name begins with `.agentd-`.
pub(crate) struct StagedFile<'a> {
    place: &'a NamedPlace,
    name: OsString,
    /// The temporary file, open for writing.
    pub(crate) file: File,
    committed: bool,
}

impl<'a> StagedFile<'a> {
    /// Creates an empty temporary file that has the owner of `old`, if present.
    ///
    /// # Errors
    /// The errno of a system call. [`Errno::PERM`] if `old` belongs to another user, and this process may not change owners.
    pub(crate) fn create(place: &'a NamedPlace, old: Option<&Stat>, mode: Permissions) -> Result<Self, Errno> {
        let name = temporary_name()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // File systems of some virtual machines ignore chmod(2), but not the mode of a new file.
        let mode = Mode::from_raw_mode(mode.bits());
        let file = openat(&place.directory, &name, flags, mode)?;
        let staged = Self { place, name, file: File::from(file), committed: false };
        if let Some(old) = old {
            staged.take_owner(old)?;
        }
        fchmod(&staged.file, mode)?;
        Ok(staged)
    }

    fn take_owner(&self, old: &Stat) -> Result<(), Errno> {
        let own = fstat(&self.file)?;
        if own.st_uid != old.st_uid {
            fchown(&self.file, Some(Uid::from_raw(old.st_uid)), Some(Gid::from_raw(old.st_gid)))?;
        } else if own.st_gid != old.st_gid {
            // The group cannot be kept if the user is not in it, or if the sandbox has no id for it. Other programs that replace
            // files also lose such a group.
            let _ = fchown(&self.file, None, Some(Gid::from_raw(old.st_gid)));
        }
        Ok(())
    }

    /// Links or renames the file to its final name. With `replace`, a file of this name is replaced; otherwise, the commit fails
    /// with [`Errno::EXIST`]. With `sync`, content and name are on the disk when the function returns.
    pub(crate) fn commit(mut self, replace: bool, sync: bool) -> Result<(), Errno> {
        if sync {
            rustix::fs::fsync(&self.file)?;
        }
        let (directory, to) = (self.place.directory.as_fd(), &self.place.name);
        if replace {
            renameat(directory, &self.name, directory, to)?;
        } else {
            rename_without_replacing(DirectoryEntry { directory, name: &self.name }, DirectoryEntry { directory, name: to })?;
        }
        self.committed = true;
        if sync {
            let readable = openat(directory, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            rustix::fs::fsync(readable)?;
        }
        Ok(())
    }
}

impl Drop for StagedFile<'_> {
    fn drop(&mut self) {
        if !self.committed {
            // The caller gets the error that ended the operation.
            let _ = unlinkat(&self.place.directory, &self.name, AtFlags::empty());
        }
    }
}

/// Returns a name that no other process can predict.
pub(crate) fn temporary_name() -> Result<OsString, Errno> {
    let mut random = [0_u8; 8];
    // Fewer than 256 bytes arrive whole (`man 2 getrandom`).
    getrandom(&mut random, GetRandomFlags::empty())?;
    Ok(format!(".agentd-{:016x}", u64::from_le_bytes(random)).into())
}

/// Returns the error of writing a file.
pub(crate) fn write_error(path: &[u8], errno: Errno) -> ToolError {
    match errno {
        Errno::PERM => ToolError {
            errno: Some(errno.raw_os_error()),
            ..ToolError::at(
                ErrorCode::PermissionDenied,
                "write",
                path,
                "the file, or its directory, belongs to another user, or is protected — write another file, or append",
            )
        },
        Errno::BUSY => ToolError {
            errno: Some(errno.raw_os_error()),
            ..ToolError::at(
                ErrorCode::PermissionDenied,
                "write",
                path,
                "the file is a mount point, and cannot be replaced — append, or grant its directory",
            )
        },
        errno => ToolError::system("write", path, errno),
    }
}
