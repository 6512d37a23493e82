//! Whiteouts over entries of the host's `/etc` that the caller may read although they are not world-readable.
//!
//! A sandbox of an unprivileged user keeps that user's id and groups: without subordinate ids the kernel refuses `setgroups(2)`
//! (`user_namespaces(7)`). The payload could thus read what the user may read, such as `/etc/ssl/private` of the group
//! `ssl-cert`.

use crate::{ErrnoContext, mount::tree::open_beneath};
use agentd_core::{Control, ControlError};
use rustix::{
    fs::{Access, AtFlags, FileType, Mode, OFlags},
    io::Errno,
};
use std::{
    ffi::OsStr,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

/// Creates whiteouts in `up`, the upper directory of an overlay, for every entry below `host` that this process may read and
/// others may not.
pub(super) fn hide(host: &OwnedFd, up: &Path) -> Result<(), ControlError> {
    let mut found = Vec::new();
    find(host, Path::new(""), &mut found).during(Control::Mounts, || "search the host's /etc for private entries".to_owned())?;
    found.iter().try_for_each(|relative| whiteout(up, relative))
}

fn find(directory: &OwnedFd, relative: &Path, found: &mut Vec<PathBuf>) -> rustix::io::Result<()> {
    for name in agentd_disk::names(directory.as_fd())? {
        let Some(stat) = agentd_disk::lstat(directory.as_fd(), &name)? else { continue };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind.is_symlink() {
            continue;
        }
        if !super::is_open_to_all(&stat) {
            if is_open_to_this_process(directory, &name)? {
                found.push(relative.join(&name));
            }
        } else if kind.is_dir() {
            match open_beneath(directory, Path::new(&name), OFlags::RDONLY | OFlags::DIRECTORY) {
                Ok(below) => find(&below, &relative.join(&name), found)?,
                // The directory was removed or replaced in the meantime, or this process may not open it.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(())
}

/// Returns true if this process may read or execute the file, or may list or search the directory.
fn is_open_to_this_process(directory: &OwnedFd, name: &OsStr) -> rustix::io::Result<bool> {
    for access in [Access::READ_OK, Access::EXEC_OK] {
        match rustix::fs::accessat(directory, name, access, AtFlags::EACCESS) {
            Ok(()) => return Ok(true),
            Err(Errno::ACCESS | Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(false)
}

/// Creates a whiteout (`Documentation/filesystems/overlayfs.rst`), which needs no capability since Linux 5.8, and its parent
/// directories.
fn whiteout(up: &Path, relative: &Path) -> Result<(), ControlError> {
    let place = up.join(relative);
    super::super::make(place.parent().unwrap_or(up), 0o755)?;
    match rustix::fs::mknodat(rustix::fs::CWD, &place, FileType::CharacterDevice, Mode::empty(), 0) {
        // EEXIST: the upper directory already has the sandbox's own file.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno).during(Control::Mounts, || format!("hide /etc/{}", relative.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    };

    #[test]
    fn entries_readable_by_caller_but_not_by_all_are_hidden() {
        let place = tempfile::tempdir().unwrap();
        let (host, up) = (place.path().join("host"), place.path().join("up"));
        fs::create_dir_all(host.join("ssl/private")).unwrap();
        fs::create_dir(&up).unwrap();
        for (name, mode) in [("ssl/private/key", 0o644), ("ssl/public", 0o644), ("secret", 0o640), ("hosts", 0o600)] {
            fs::write(host.join(name), "").unwrap();
            fs::set_permissions(host.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(host.join("ssl/private"), fs::Permissions::from_mode(0o710)).unwrap();
        fs::write(up.join("hosts"), "of the sandbox").unwrap();

        hide(&fs::File::open(&host).unwrap().into(), &up).unwrap();
        for name in ["secret", "ssl/private"] {
            let meta = fs::symlink_metadata(up.join(name)).unwrap();
            assert!(meta.file_type().is_char_device() && meta.rdev() == 0, "{name}");
        }
        assert_eq!(fs::read_dir(up.join("ssl")).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(up.join("hosts")).unwrap(), "of the sandbox");
    }
}
