//! Mount points, directories and links in a root. In a root with untrusted content, paths are opened or created one component at
//! a time, and no link is followed (CVE-2021-30465, CVE-2023-27561: mounts redirected by links in an image). A root that was
//! empty when this process created it has no links: a path is created in one step there, which takes a third of the system calls.

use super::tree::{self, open_beneath};
use crate::ErrnoContext;
use agentd_core::{Control, ControlError};
use rustix::{
    fs::{FileType, Mode, OFlags},
    io::Errno,
};
use std::{
    ffi::OsStr,
    os::fd::OwnedFd,
    path::{Component, Path},
};

/// Mode of missing parent directories.
const PARENT_MODE: Mode = Mode::from_raw_mode(0o755);

/// A root in which files are created.
#[derive(Debug, Clone, Copy)]
pub(super) enum Places<'a> {
    /// A root with untrusted content.
    Filled(&'a OwnedFd),
    /// A root that was empty at first, and has no links yet.
    Fresh(&'a OwnedFd),
}

impl Places<'_> {
    /// Creates a directory and its parents if they are missing.
    pub(super) fn directory(self, path: &Path, mode: Mode) -> Result<(), ControlError> {
        match self {
            Self::Filled(root) => directory(root, path, mode).map(drop),
            Self::Fresh(root) => create_replacing(path, root, |name| rustix::fs::mkdirat(root, name, mode))
                .or_else(exists)
                .during(Control::Mounts, || creating(path)),
        }
    }

    /// Creates a symbolic link and its parent directories, unless the name is taken.
    pub(super) fn link(self, path: &Path, target: &Path) -> Result<(), ControlError> {
        let made = match self {
            Self::Filled(root) => {
                let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
                rustix::fs::symlinkat(target, directory(root, parent, PARENT_MODE)?, name)
            }
            Self::Fresh(root) => create_replacing(path, root, |name| rustix::fs::symlinkat(target, root, name)),
        };
        made.or_else(exists).during(Control::Mounts, || creating(path))
    }

    /// Attaches a tree with `attributes` at `path`. Creates the mount point if it is missing.
    pub(super) fn attach(self, tree: &OwnedFd, path: &Path, attributes: u64) -> Result<(), ControlError> {
        let kind = rustix::fs::fstat(tree).during(Control::Mounts, || format!("stat the tree of {}", path.display()))?;
        let is_directory = FileType::from_raw_mode(kind.st_mode).is_dir();
        match self {
            Self::Filled(root) => {
                let place = if is_directory { directory(root, path, PARENT_MODE) } else { file(root, path) }?;
                tree::restrict(tree, attributes, path)?;
                tree::attach_at(tree, &place, path)
            }
            Self::Fresh(root) => {
                let make = |name: &Path| {
                    if is_directory {
                        rustix::fs::mkdirat(root, name, PARENT_MODE)
                    } else {
                        rustix::fs::mknodat(root, name, FileType::RegularFile, Mode::from(0o644), 0)
                    }
                };
                create_replacing(path, root, make).or_else(exists).during(Control::Mounts, || creating(path))?;
                tree::restrict(tree, attributes, path)?;
                tree::attach_below(tree, root, relative(path), path)
            }
        }
    }
}

/// Flags that create a new file, and fail if the name is taken.
const NEW: OFlags = OFlags::CREATE.union(OFlags::EXCL).union(OFlags::WRONLY).union(OFlags::CLOEXEC);

fn creating(path: &Path) -> String {
    format!("create {} in the root", path.display())
}

fn exists(errno: Errno) -> rustix::io::Result<()> {
    if errno == Errno::EXIST { Ok(()) } else { Err(errno) }
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// Calls `make` for `path` below `root`, after creating missing parent directories.
fn create_replacing<T>(path: &Path, root: &OwnedFd, make: impl Fn(&Path) -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    // `..` would lead out of any root.
    if names(path).is_err() {
        return Err(Errno::INVAL);
    }
    let path = relative(path);
    let made = make(path);
    if !matches!(made, Err(Errno::NOENT)) {
        return made;
    }
    let mut parents: Vec<&Path> = path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()).collect();
    while let Some(parent) = parents.pop() {
        rustix::fs::mkdirat(root, parent, PARENT_MODE).or_else(exists)?;
    }
    make(path)
}

/// Opens the directory `path` below `root`. Creates the directory and its parents if they are missing.
fn directory(root: &OwnedFd, path: &Path, mode: Mode) -> Result<OwnedFd, ControlError> {
    let mut at = root.try_clone().during(Control::Mounts, || "dup the descriptor of the root".to_owned())?;
    let mut names = names(path)?.into_iter().peekable();
    while let Some(name) = names.next() {
        at = step(&at, name, path, if names.peek().is_some() { PARENT_MODE } else { mode })?;
    }
    Ok(at)
}

/// Opens the file `path` below `root`. Creates an empty file and its parents if they are missing.
fn file(root: &OwnedFd, path: &Path) -> Result<OwnedFd, ControlError> {
    let failed = || format!("create the mount point {}", path.display());
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(ControlError::new(Control::Mounts, failed(), Some(libc::EINVAL)));
    };
    let parent = directory(root, parent, PARENT_MODE)?;
    match rustix::fs::openat(&parent, name, NEW, Mode::from(0o644)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(ControlError::new(Control::Mounts, failed(), Some(errno.raw_os_error()))),
    }
    open_beneath(&parent, Path::new(name), OFlags::PATH).during(Control::Mounts, failed)
}

fn step(at: &OwnedFd, name: &OsStr, path: &Path, mode: Mode) -> Result<OwnedFd, ControlError> {
    let open = || open_beneath(at, Path::new(name), OFlags::PATH | OFlags::DIRECTORY);
    let opened = match open() {
        Err(Errno::NOENT) => match rustix::fs::mkdirat(at, name, mode) {
            Ok(()) | Err(Errno::EXIST) => open(),
            Err(errno) => Err(errno),
        },
        other => other,
    };
    opened.during(Control::Mounts, || format!("open {} in the root", path.display())).map_err(|error| match error.errno {
        Some(libc::ELOOP | libc::ENOTDIR) => {
            error.remedy("choose another path: the root has a symbolic link or a file in place of a directory")
        }
        _ => error,
    })
}

/// Returns the components of a path.
///
/// # Errors
/// `EINVAL` if the path contains `..`.
fn names(path: &Path) -> Result<Vec<&OsStr>, ControlError> {
    path.components()
        .filter(|part| *part != Component::RootDir)
        .map(|part| match part {
            Component::Normal(name) => Ok(name),
            _ => Err(ControlError::new(
                Control::Mounts,
                format!("resolve {}: the path contains '..'", path.display()),
                Some(libc::EINVAL),
            )),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn mount_points_are_created_but_never_through_links() {
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

    #[test]
    fn fresh_and_filled_roots_get_the_same_directories() {
        let temp = std::env::temp_dir().join(format!("agentd-places-{}", std::process::id()));
        for name in ["filled", "fresh"] {
            let path = temp.join(name);
            std::fs::create_dir_all(&path).unwrap();
            let root: OwnedFd = std::fs::File::open(&path).unwrap().into();
            let places = if name == "fresh" { Places::Fresh(&root) } else { Places::Filled(&root) };
            for _ in ["first", "second"] {
                places.directory(Path::new("/a/b/c"), Mode::from(0o700)).unwrap();
                places.directory(Path::new("a"), Mode::from(0o700)).unwrap();
                places.directory(Path::new("/a/d/e"), Mode::from(0o755)).unwrap();
                std::fs::write(path.join("a/d/file"), "").unwrap();
                for bad in ["../x", "a/../../x"] {
                    places.directory(Path::new(bad), Mode::from(0o755)).unwrap_err();
                }
                places.directory(Path::new("a/d/file/x"), Mode::from(0o755)).unwrap_err();
            }
            let mode = |of: &str| std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(path.join(of)).unwrap()) & 0o7777;
            assert_eq!([mode("a"), mode("a/b"), mode("a/b/c"), mode("a/d"), mode("a/d/e")], [0o755, 0o755, 0o700, 0o755, 0o755]);
        }
        assert_eq!(std::fs::read_dir(&temp).unwrap().count(), 2);
        std::fs::remove_dir_all(temp).unwrap();
    }
}
