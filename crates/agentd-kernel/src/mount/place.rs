//! Places in a root. In one that somebody else has filled they are opened or made one step at a time, without ever following a link
//! (CVE-2021-30465, CVE-2023-27561: mounts redirected by links in an image). One that was empty when this process made it has no links: a
//! path is one step there, which is a third of the system calls.

use super::tree::{self, open_beneath};
use crate::At;
use agentd_core::{Layer, LayerError};
use rustix::{
    fs::{FileType, Mode, OFlags},
    io::Errno,
};
use std::{
    ffi::OsStr,
    fs::File,
    io::Write as _,
    os::fd::OwnedFd,
    path::{Component, Path},
};

/// The mode of directories that are only on the way to a place.
const ON_THE_WAY: Mode = Mode::from_raw_mode(0o755);

/// A root in which places are made.
#[derive(Debug, Clone, Copy)]
pub(super) enum Places<'a> {
    /// Who filled it is not to be trusted.
    Filled(&'a OwnedFd),
    /// It has been empty, and has no links yet.
    Fresh(&'a OwnedFd),
}

impl Places<'_> {
    /// Makes a directory, and its parents, where they are missing.
    pub(super) fn directory(self, path: &Path, mode: Mode) -> Result<(), LayerError> {
        match self {
            Self::Filled(root) => directory(root, path, mode).map(drop),
            Self::Fresh(root) => {
                anew(path, root, |name| rustix::fs::mkdirat(root, name, mode)).or_else(exists).at(Layer::Mounts, || making(path))
            }
        }
    }

    /// Makes a file with this content, where there is nothing yet.
    pub(super) fn file(self, path: &Path, content: &str) -> Result<(), LayerError> {
        match self {
            Self::Filled(root) => new_file(root, path, content),
            Self::Fresh(root) => match anew(path, root, |name| rustix::fs::openat(root, name, NEW, Mode::from(0o644))) {
                Err(Errno::EXIST) => Ok(()),
                made => fill(made.at(Layer::Mounts, || making(path))?, path, content),
            },
        }
    }

    /// Attaches a tree, with attributes; a place for it is made where it is missing.
    pub(super) fn attach(self, tree: &OwnedFd, path: &Path, attributes: u64) -> Result<(), LayerError> {
        let kind = rustix::fs::fstat(tree).at(Layer::Mounts, || format!("stat the tree of {}", path.display()))?;
        let is_directory = FileType::from_raw_mode(kind.st_mode).is_dir();
        match self {
            Self::Filled(root) => {
                let place = if is_directory { directory(root, path, ON_THE_WAY) } else { file(root, path) }?;
                tree::restrict(tree, attributes, path)?;
                tree::attach_at(tree, &place, path)
            }
            Self::Fresh(root) => {
                let make = |name: &Path| {
                    if is_directory {
                        rustix::fs::mkdirat(root, name, ON_THE_WAY)
                    } else {
                        rustix::fs::mknodat(root, name, FileType::RegularFile, Mode::from(0o644), 0)
                    }
                };
                anew(path, root, make).or_else(exists).at(Layer::Mounts, || making(path))?;
                tree::restrict(tree, attributes, path)?;
                tree::attach_below(tree, root, relative(path), path)
            }
        }
    }
}

/// What is new has this content, or is not there.
const NEW: OFlags = OFlags::CREATE.union(OFlags::EXCL).union(OFlags::WRONLY).union(OFlags::CLOEXEC);

fn making(path: &Path) -> String {
    format!("make {} in the root", path.display())
}

fn exists(errno: Errno) -> rustix::io::Result<()> {
    if errno == Errno::EXIST { Ok(()) } else { Err(errno) }
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// Makes something at `path` below `root`, and before that the directories on the way which are missing.
fn anew<T>(path: &Path, root: &OwnedFd, make: impl Fn(&Path) -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    // `..` would lead out, whoever filled it.
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
        rustix::fs::mkdirat(root, parent, ON_THE_WAY).or_else(exists)?;
    }
    make(path)
}

/// The directory `path` below `root`, made with its parents where it is missing.
fn directory(root: &OwnedFd, path: &Path, mode: Mode) -> Result<OwnedFd, LayerError> {
    let mut at = root.try_clone().at(Layer::Mounts, || "dup".to_owned())?;
    let mut names = names(path)?.into_iter().peekable();
    while let Some(name) = names.next() {
        at = step(&at, name, path, if names.peek().is_some() { ON_THE_WAY } else { mode })?;
    }
    Ok(at)
}

/// The file `path` below `root`, made empty where it is missing.
fn file(root: &OwnedFd, path: &Path) -> Result<OwnedFd, LayerError> {
    let failed = || format!("make a place for {}", path.display());
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(LayerError::new(Layer::Mounts, failed(), Some(libc::EINVAL)));
    };
    let parent = directory(root, parent, ON_THE_WAY)?;
    match rustix::fs::openat(&parent, name, NEW, Mode::from(0o644)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(LayerError::new(Layer::Mounts, failed(), Some(errno.raw_os_error()))),
    }
    open_beneath(&parent, Path::new(name), OFlags::PATH).at(Layer::Mounts, failed)
}

/// Makes the file `path` below `root` with this content, where there is nothing yet.
fn new_file(root: &OwnedFd, path: &Path, content: &str) -> Result<(), LayerError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(LayerError::new(Layer::Mounts, making(path), Some(libc::EINVAL)));
    };
    let parent = directory(root, parent, ON_THE_WAY)?;
    match rustix::fs::openat(&parent, name, NEW, Mode::from(0o644)) {
        Err(Errno::EXIST) => Ok(()),
        made => fill(made.at(Layer::Mounts, || making(path))?, path, content),
    }
}

fn fill(file: OwnedFd, path: &Path, content: &str) -> Result<(), LayerError> {
    let filled = File::from(file).write_all(content.as_bytes());
    filled.map_err(|error| LayerError::new(Layer::Mounts, making(path), error.raw_os_error()))
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

    #[test]
    fn both_kinds_of_roots_get_the_same_places() {
        let temp = std::env::temp_dir().join(format!("agentd-places-{}", std::process::id()));
        for name in ["filled", "fresh"] {
            let path = temp.join(name);
            std::fs::create_dir_all(&path).unwrap();
            let root: OwnedFd = std::fs::File::open(&path).unwrap().into();
            let places = if name == "fresh" { Places::Fresh(&root) } else { Places::Filled(&root) };
            for again in ["first", "second"] {
                places.directory(Path::new("/a/b/c"), Mode::from(0o700)).unwrap();
                places.directory(Path::new("a"), Mode::from(0o700)).unwrap();
                places.file(Path::new("/a/d/file"), again).unwrap();
                for bad in ["../x", "a/../../x"] {
                    places.directory(Path::new(bad), Mode::from(0o755)).unwrap_err();
                    places.file(Path::new(bad), "").unwrap_err();
                }
                places.directory(Path::new("a/d/file/x"), Mode::from(0o755)).unwrap_err();
            }
            let mode = |of: &str| std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(path.join(of)).unwrap()) & 0o7777;
            assert_eq!(
                [mode("a"), mode("a/b"), mode("a/b/c"), mode("a/d"), mode("a/d/file")],
                [0o755, 0o755, 0o700, 0o755, 0o644]
            );
            assert_eq!(std::fs::read_to_string(path.join("a/d/file")).unwrap(), "first");
        }
        assert_eq!(std::fs::read_dir(&temp).unwrap().count(), 2);
        std::fs::remove_dir_all(temp).unwrap();
    }
}
