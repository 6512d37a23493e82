//! Names below a copied directory, and the directories they are in. There are two locks: a [`Name`] has only plain components and no way
//! out, and the kernel resolves each beneath the directory and through no link (`openat2(2)`).

use super::error::{At, CopyError};
use rustix::{
    fs::{AtFlags, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

/// The longest path that the kernel takes, and the longest of its components (`limits.h`).
const MOST_PATH: usize = 4095;
const MOST_COMPONENT: usize = 255;

/// A place below a copied directory, never that itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name(Vec<u8>);

impl Name {
    /// Reads one.
    pub fn parse(bytes: &[u8]) -> Result<Self, CopyError> {
        let refuse = |why| {
            let shown = bytes.iter().take(256).copied().collect();
            Err(CopyError::Name { path: PathBuf::from(OsString::from_vec(shown)), why })
        };
        if bytes.len() > MOST_PATH {
            return refuse("it is too long");
        }
        if bytes.contains(&0) {
            return refuse("it has a zero byte");
        }
        for component in bytes.split(|byte| *byte == b'/') {
            match component {
                b"" => return refuse("it is absolute, or a part of it is empty"),
                b"." | b".." => return refuse("it has `.` or `..`"),
                _ if component.len() > MOST_COMPONENT => return refuse("a part of it is too long"),
                _ => {}
            }
        }
        Ok(Self(bytes.to_vec()))
    }

    /// What is called `last` in `directory`; in the copied one itself when that is `None`.
    pub fn within(directory: Option<&Self>, last: &[u8]) -> Result<Self, CopyError> {
        match directory {
            Some(directory) => Self::parse(&[directory.bytes(), b"/", last].concat()),
            None => Self::parse(last),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Its last component.
    pub fn last(&self) -> &OsStr {
        self.path().file_name().unwrap_or_default()
    }

    fn parent(&self) -> &Path {
        match self.path().parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }
}

/// Opens a directory at or below `root`.
pub(super) fn directory(root: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}

/// Opens the directory that `name` is in.
pub(super) fn parent(root: impl AsFd, name: &Name) -> Result<OwnedFd, Errno> {
    directory(root, name.parent())
}

/// What is at `name` in `parent`, which it is in.
pub(super) fn look(parent: impl AsFd, name: &Name) -> Result<Option<Stat>, CopyError> {
    match rustix::fs::statat(parent, name.last(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno).at("stat", name.path()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_no_way_out() {
        for bad in ["", "/", "/etc", "..", "../x", "a/../b", "a/..", ".", "./a", "a//b", "a/", "a\0b"] {
            assert!(matches!(Name::parse(bad.as_bytes()), Err(CopyError::Name { .. })), "{bad:?}");
        }
        for long in ["a/".repeat(3000) + "a", "a".repeat(256)] {
            assert!(matches!(Name::parse(long.as_bytes()), Err(CopyError::Name { .. })));
        }
        for good in [&b"a"[..], b"a/b", b"...", b"\xff\n/ x", b".git/hooks"] {
            assert_eq!(Name::parse(good).unwrap().bytes(), good);
        }
        assert_eq!(Name::parse(b"a").unwrap().parent(), Path::new("."));
        assert_eq!(Name::parse(b"a/b").unwrap().parent(), Path::new("a"));
    }
}
