//! Places in a root that somebody else has filled: opened or made one step at a time, without ever following a link
//! (CVE-2021-30465, CVE-2023-27561: mounts redirected by links in an image).

use super::tree::open_beneath;
use crate::At;
use agentd_core::{Layer, LayerError};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{
    ffi::OsStr,
    fs::File,
    io::Write as _,
    os::fd::OwnedFd,
    path::{Component, Path},
};

/// The directory `path` below `root`, made with its parents where it is missing.
pub(super) fn directory(root: &OwnedFd, path: &Path, mode: Mode) -> Result<OwnedFd, LayerError> {
    let mut at = root.try_clone().at(Layer::Mounts, || "dup".to_owned())?;
    for name in names(path)? {
        at = step(&at, name, path, mode)?;
    }
    Ok(at)
}

/// The file `path` below `root`, made empty where it is missing.
pub(super) fn file(root: &OwnedFd, path: &Path) -> Result<OwnedFd, LayerError> {
    let failed = || format!("make a place for {}", path.display());
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(LayerError::new(Layer::Mounts, failed(), Some(libc::EINVAL)));
    };
    let parent = directory(root, parent, Mode::from(0o755))?;
    match rustix::fs::openat(&parent, name, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC, Mode::from(0o644)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(LayerError::new(Layer::Mounts, failed(), Some(errno.raw_os_error()))),
    }
    open_beneath(&parent, Path::new(name), OFlags::PATH).at(Layer::Mounts, failed)
}

/// Makes the file `path` below `root` with this content, where there is nothing yet.
pub(super) fn new_file(root: &OwnedFd, path: &Path, content: &str) -> Result<(), LayerError> {
    let failed = || format!("make {} in the root", path.display());
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(LayerError::new(Layer::Mounts, failed(), Some(libc::EINVAL)));
    };
    let parent = directory(root, parent, Mode::from(0o755))?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(&parent, name, flags, Mode::from(0o644)) {
        Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(LayerError::new(Layer::Mounts, failed(), Some(errno.raw_os_error()))),
        Ok(file) => File::from(file)
            .write_all(content.as_bytes())
            .map_err(|error| LayerError::new(Layer::Mounts, failed(), error.raw_os_error())),
    }
}

fn step(at: &OwnedFd, name: &OsStr, path: &Path, mode: Mode) -> Result<OwnedFd, LayerError> {
    let open = || open_beneath(at, Path::new(name), OFlags::PATH | OFlags::DIRECTORY);
    let opened = match open() {
        Err(Errno::NOENT) => match rustix::fs::mkdirat(at, name, mode) {
            Ok(()) | Err(Errno::EXIST) => open(),
            Err(errno) => Err(errno),
        },
        other => other,
    };
    opened.at(Layer::Mounts, || format!("open {} in the root", path.display())).map_err(|error| match error.errno {
        Some(libc::ELOOP | libc::ENOTDIR) => {
            error.remedy("the root has a link or a file where a directory must be: name another place")
        }
        _ => error,
    })
}

/// The names of a path that goes down only.
fn names(path: &Path) -> Result<Vec<&OsStr>, LayerError> {
    path.components()
        .filter(|part| *part != Component::RootDir)
        .map(|part| match part {
            Component::Normal(name) => Ok(name),
            _ => Err(LayerError::new(Layer::Mounts, format!("a place with '..': {}", path.display()), Some(libc::EINVAL))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn places_are_made_but_never_through_links() {
        let temp = std::env::temp_dir().join(format!("agentd-place-{}", std::process::id()));
        std::fs::create_dir_all(temp.join("root/etc")).unwrap();
        std::fs::create_dir(temp.join("outside")).unwrap();
        for (target, name) in [("../outside", "out"), ("/", "top"), ("etc", "inner"), ("nowhere", "loose")] {
            symlink(target, temp.join("root").join(name)).unwrap();
        }
        std::fs::write(temp.join("root/file"), "kept").unwrap();
        let root: OwnedFd = std::fs::File::open(temp.join("root")).unwrap().into();
        directory(&root, Path::new("/a/b/c"), Mode::from(0o755)).unwrap();
        file(&root, Path::new("/etc/new/thing")).unwrap();
        file(&root, Path::new("file")).unwrap();
        assert!(temp.join("root/a/b/c").is_dir() && temp.join("root/etc/new/thing").is_file());
        assert_eq!(std::fs::read_to_string(temp.join("root/file")).unwrap(), "kept");
        for bad in ["out/x", "top/x", "inner/x", "loose/x", "file/x", "../x", "a/../../x"] {
            assert!(directory(&root, Path::new(bad), Mode::from(0o755)).is_err(), "{bad}");
            assert!(file(&root, Path::new(bad)).is_err(), "{bad}");
        }
        for link in ["out", "top", "inner", "loose"] {
            assert!(directory(&root, Path::new(link), Mode::from(0o755)).is_err(), "{link}");
        }
        assert_eq!(std::fs::read_dir(temp.join("outside")).unwrap().count(), 0);
        std::fs::remove_dir_all(temp).unwrap();
    }
}
