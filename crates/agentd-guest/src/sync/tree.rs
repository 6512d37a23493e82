//! Names below a copied directory, and access to the directories that contain them. Escapes are prevented twice: a
//! [`RelativeName`] has no `..` or empty components, and the kernel resolves each name beneath the directory without following
//! links (`openat2(2)`).

use super::error::{CopyError, ErrnoContext};
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

/// The maximum length of a path that the kernel accepts, and of a component, in bytes (`limits.h`).
const MAX_PATH: usize = 4095;
const MAX_COMPONENT: usize = 255;

/// A path below a copied directory, never the directory itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RelativeName(Vec<u8>);

impl RelativeName {
    /// Validates a name.
    pub fn parse(bytes: &[u8]) -> Result<Self, CopyError> {
        let refuse = |why| {
            let shown = bytes.iter().take(256).copied().collect();
            Err(CopyError::Name { path: PathBuf::from(OsString::from_vec(shown)), why })
        };
        if bytes.len() > MAX_PATH {
            return refuse("the name is too long");
        }
        if bytes.contains(&0) {
            return refuse("the name contains a zero byte");
        }
        for component in bytes.split(|byte| *byte == b'/') {
            match component {
                b"" => return refuse("the name is absolute or has an empty component"),
                b"." | b".." => return refuse("the name has a `.` or `..` component"),
                _ if component.len() > MAX_COMPONENT => return refuse("a component of the name is too long"),
                _ => {}
            }
        }
        Ok(Self(bytes.to_vec()))
    }

    /// Returns the name of `last` in `directory`; `None` stands for the copied directory itself.
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

    /// Returns the last component.
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

/// Opens the parent directory of `name`.
pub(super) fn parent(root: impl AsFd, name: &RelativeName) -> Result<OwnedFd, Errno> {
    directory(root, name.parent())
}

/// Returns the status of `name` in its parent directory, without following links; `None` if the name does not exist.
pub(super) fn lstat(parent: impl AsFd, name: &RelativeName) -> Result<Option<Stat>, CopyError> {
    match rustix::fs::statat(parent, name.last(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno).during("stat", name.path()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_escape_are_refused() {
        for bad in ["", "/", "/etc", "..", "../x", "a/../b", "a/..", ".", "./a", "a//b", "a/", "a\0b"] {
            assert!(matches!(RelativeName::parse(bad.as_bytes()), Err(CopyError::Name { .. })), "{bad:?}");
        }
        for long in ["a/".repeat(3000) + "a", "a".repeat(256)] {
            assert!(matches!(RelativeName::parse(long.as_bytes()), Err(CopyError::Name { .. })));
        }
        for good in [&b"a"[..], b"a/b", b"...", b"\xff\n/ x", b".git/hooks"] {
            assert_eq!(RelativeName::parse(good).unwrap().bytes(), good);
        }
        assert_eq!(RelativeName::parse(b"a").unwrap().parent(), Path::new("."));
        assert_eq!(RelativeName::parse(b"a/b").unwrap().parent(), Path::new("a"));
    }
}
