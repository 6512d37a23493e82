//! Names of entries, made safe: a [`Name`] has only plain components and no way out. It is the first of two locks; the second is
//! the kernel, which resolves every one of them beneath the layer's root and through no link (see [`super::tree`]).

use super::{
    bounds::{Bound, Bounds},
    error::UnpackError,
};
use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

/// The prefix that marks a whiteout (OCI image specification, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// The prefix of what AUFS kept for itself; only the opaque mark has a meaning for others.
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// A place inside a layer; empty for the layer's root itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Name(PathBuf);

/// What an entry's name says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A file, directory, link …
    Entry(Name),
    /// Nothing of the layers below is at this place.
    Whiteout(Name),
    /// Nothing of the layers below is in this directory.
    Opaque(Name),
    /// Bookkeeping of the program that made the layer.
    Nothing,
}

impl Name {
    /// Reads a name as it stands in an archive. An absolute one is taken from the layer's root, as `tar` does; one with `..` is
    /// refused, since no program writes it with good intent.
    pub(super) fn parse(raw: &[u8], bounds: &Bounds) -> Result<Self, UnpackError> {
        let refuse = |why| Err(UnpackError::Name { path: lossy(raw), why });
        if raw.len() > bounds.path {
            return Err(UnpackError::TooLarge { bound: Bound::Path, most: bounds.path as u64, path: None });
        }
        if raw.is_empty() {
            return refuse("an empty name");
        }
        if raw.contains(&0) {
            return refuse("a name with a zero byte");
        }
        let mut path = PathBuf::new();
        let mut depth = 0;
        for component in raw.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return refuse("a name with `..`"),
                _ if component.len() > 255 => return refuse("a component longer than 255 bytes"),
                _ => path.push(OsStr::from_bytes(component)),
            }
            depth += 1;
            if depth > bounds.depth {
                return Err(UnpackError::TooLarge { bound: Bound::Depth, most: bounds.depth as u64, path: None });
            }
        }
        Ok(Self(path))
    }

    /// Reads what an entry's name says, whiteouts included.
    pub(super) fn meaning(raw: &[u8], bounds: &Bounds) -> Result<Meaning, UnpackError> {
        let name = Self::parse(raw, bounds)?;
        let components = name.components();
        let Some((last, parents)) = components.split_last() else {
            return Ok(Meaning::Entry(name));
        };
        for parent in parents {
            if parent.starts_with(AUFS) {
                return Ok(Meaning::Nothing);
            }
            if parent.starts_with(WHITEOUT) {
                return Err(UnpackError::Name { path: name.0.clone(), why: "an entry below a whiteout" });
            }
        }
        if *last == OPAQUE {
            return Ok(Meaning::Opaque(name.parent()));
        }
        if last.starts_with(AUFS) {
            return Ok(Meaning::Nothing);
        }
        match last.strip_prefix(WHITEOUT) {
            None => Ok(Meaning::Entry(name)),
            Some(b"" | b"." | b"..") => Err(UnpackError::Name { path: name.0.clone(), why: "a whiteout of nothing" }),
            Some(hidden) => Ok(Meaning::Whiteout(Self(name.parent().0.join(OsStr::from_bytes(hidden))))),
        }
    }

    pub(super) fn is_root(&self) -> bool {
        self.0.as_os_str().is_empty()
    }

    /// The directory it lies in; the root lies in itself.
    pub(super) fn parent(&self) -> Self {
        Self(self.0.parent().unwrap_or(Path::new("")).to_owned())
    }

    /// Its last component; `.` for the root.
    pub(super) fn last(&self) -> OsString {
        self.0.file_name().unwrap_or(OsStr::new(".")).to_owned()
    }

    /// The directories from the root's child down to it.
    pub(super) fn ancestors_and_self(&self) -> Vec<Self> {
        let mut all: Vec<_> =
            self.0.ancestors().filter(|path| !path.as_os_str().is_empty()).map(|path| Self(path.to_owned())).collect();
        all.reverse();
        all
    }

    /// The path to give to `openat2`, relative to the layer's root.
    pub(super) fn path(&self) -> &Path {
        if self.is_root() { Path::new(".") } else { &self.0 }
    }

    pub(super) fn len(&self) -> usize {
        self.0.as_os_str().len()
    }

    fn components(&self) -> Vec<&[u8]> {
        self.0.iter().map(OsStr::as_bytes).collect()
    }
}

/// A name for an error message: hostile ones may be long.
pub(super) fn lossy(raw: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(raw.iter().take(256).copied().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(raw: &str) -> Result<Meaning, UnpackError> {
        Name::meaning(raw.as_bytes(), &Bounds::default())
    }

    fn name(path: &str) -> Name {
        Name(path.into())
    }

    #[test]
    fn a_name_is_taken_from_the_root_of_the_layer() {
        for (raw, path) in [("./", ""), ("/", ""), (".", ""), ("a/b/", "a/b"), ("/etc//passwd", "etc/passwd"), ("./a/./b", "a/b")]
        {
            assert_eq!(meaning(raw).unwrap(), Meaning::Entry(name(path)), "{raw}");
        }
    }

    #[test]
    fn a_name_that_leads_out_is_refused() {
        for raw in ["..", "../x", "a/../b", "/..", "a/..", "", "a\0b", ".wh.", ".wh...", ".wh..", "a/.wh.b/c", ".wh.x/.wh.y"] {
            assert!(matches!(meaning(raw), Err(UnpackError::Name { .. })), "{raw:?}");
        }
        assert!(matches!(meaning(&"a".repeat(256)), Err(UnpackError::Name { .. })));
    }

    #[test]
    fn a_name_that_is_too_long_or_too_deep_is_refused() {
        assert!(matches!(meaning(&"a/".repeat(4000)), Err(UnpackError::TooLarge { bound: Bound::Path, .. })));
        assert!(matches!(meaning(&"a/".repeat(257)), Err(UnpackError::TooLarge { bound: Bound::Depth, .. })));
    }

    #[test]
    fn whiteouts_are_known_by_their_names() {
        assert_eq!(meaning("a/.wh.b").unwrap(), Meaning::Whiteout(name("a/b")));
        assert_eq!(meaning(".wh.b").unwrap(), Meaning::Whiteout(name("b")));
        assert_eq!(meaning("a/.wh..wh..opq").unwrap(), Meaning::Opaque(name("a")));
        assert_eq!(meaning(".wh..wh..opq").unwrap(), Meaning::Opaque(name("")));
        assert_eq!(meaning(".wh..wh.plnk/x").unwrap(), Meaning::Nothing);
        assert_eq!(meaning(".wh..wh.aufs").unwrap(), Meaning::Nothing);
    }
}
