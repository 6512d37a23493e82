//! Validates the names of entries: a [`Name`] has only plain components and cannot lead out of the layer. This is the first of
//! two barriers. The second is the kernel, which resolves every name beneath the layer's root without following links (see
//! [`super::tree`]).

use agentd_archive::{Bound, Bounds, UnpackError, lossy};
use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// The prefix that marks a whiteout (OCI image specification, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// The prefix of AUFS's own bookkeeping entries; only the opaque mark has a meaning for other programs.
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// A path inside a layer; empty for the layer's root.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Name(PathBuf);

/// The meaning of an entry's name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NameMeaning {
    /// A file, directory, link or other entry.
    Entry(Name),
    /// A whiteout: hides this path in the layers below.
    Whiteout(Name),
    /// An opaque mark: hides the contents of this directory in the layers below.
    Opaque(Name),
    /// Bookkeeping of the program that created the layer; ignored.
    Nothing,
}

impl Name {
    /// Parses a name from an archive. An absolute name is relative to the layer's root, as in `tar`. A name with `..` is
    /// rejected, because no program writes one with good intent.
    pub(super) fn parse(raw: &[u8], bounds: &Bounds) -> Result<Self, UnpackError> {
        let refuse = |why| Err(UnpackError::Name { path: lossy(raw), why });
        if raw.len() > bounds.path {
            return Err(UnpackError::TooLarge { bound: Bound::Path, max: bounds.path as u64, path: None });
        }
        if raw.is_empty() {
            return refuse("empty name");
        }
        if raw.contains(&0) {
            return refuse("name contains a NUL byte");
        }
        let mut path = PathBuf::new();
        let mut depth = 0;
        for component in raw.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return refuse("name contains `..`"),
                _ if component.len() > 255 => return refuse("component longer than 255 bytes"),
                _ => path.push(OsStr::from_bytes(component)),
            }
            depth += 1;
            if depth > bounds.depth {
                return Err(UnpackError::TooLarge { bound: Bound::Depth, max: bounds.depth as u64, path: None });
            }
        }
        Ok(Self(path))
    }

    /// Parses the name of an entry and determines its meaning, including whiteouts.
    pub(super) fn meaning(raw: &[u8], bounds: &Bounds) -> Result<NameMeaning, UnpackError> {
        let name = Self::parse(raw, bounds)?;
        let components = name.components();
        let Some((last, parents)) = components.split_last() else {
            return Ok(NameMeaning::Entry(name));
        };
        for parent in parents {
            if parent.starts_with(AUFS) {
                return Ok(NameMeaning::Nothing);
            }
            if parent.starts_with(WHITEOUT) {
                return Err(UnpackError::Name { path: name.0.clone(), why: "entry below a whiteout" });
            }
        }
        if *last == OPAQUE {
            return Ok(NameMeaning::Opaque(name.parent()));
        }
        if last.starts_with(AUFS) {
            return Ok(NameMeaning::Nothing);
        }
        match last.strip_prefix(WHITEOUT) {
            None => Ok(NameMeaning::Entry(name)),
            Some(b"" | b"." | b"..") => Err(UnpackError::Name { path: name.0.clone(), why: "whiteout without a name" }),
            Some(hidden) => Ok(NameMeaning::Whiteout(Self(name.parent().0.join(OsStr::from_bytes(hidden))))),
        }
    }

    pub(super) fn is_root(&self) -> bool {
        self.0.as_os_str().is_empty()
    }

    /// Returns the parent directory; the parent of the root is the root.
    pub(super) fn parent(&self) -> Self {
        Self(self.0.parent().unwrap_or(Path::new("")).to_owned())
    }

    /// Returns the last component; `.` for the root.
    pub(super) fn last(&self) -> OsString {
        self.0.file_name().unwrap_or(OsStr::new(".")).to_owned()
    }

    /// Returns the path's ancestors below the root and the path itself, outermost first.
    pub(super) fn ancestors_and_self(&self) -> Vec<Self> {
        let mut all: Vec<_> =
            self.0.ancestors().filter(|path| !path.as_os_str().is_empty()).map(|path| Self(path.to_owned())).collect();
        all.reverse();
        all
    }

    /// Returns the path for `openat2`, relative to the layer's root.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(raw: &str) -> Result<NameMeaning, UnpackError> {
        Name::meaning(raw.as_bytes(), &Bounds::default())
    }

    fn name(path: &str) -> Name {
        Name(path.into())
    }

    #[test]
    fn entry_name_is_relative_to_layer_root() {
        for (raw, path) in [("./", ""), ("/", ""), (".", ""), ("a/b/", "a/b"), ("/etc//passwd", "etc/passwd"), ("./a/./b", "a/b")]
        {
            assert_eq!(meaning(raw).unwrap(), NameMeaning::Entry(name(path)), "{raw}");
        }
    }

    #[test]
    fn entry_name_outside_layer_is_refused() {
        for raw in ["..", "../x", "a/../b", "/..", "a/..", "", "a\0b", ".wh.", ".wh...", ".wh..", "a/.wh.b/c", ".wh.x/.wh.y"] {
            assert!(matches!(meaning(raw), Err(UnpackError::Name { .. })), "{raw:?}");
        }
        assert!(matches!(meaning(&"a".repeat(256)), Err(UnpackError::Name { .. })));
    }

    #[test]
    fn entry_name_too_long_or_too_deep_is_refused() {
        assert!(matches!(meaning(&"a/".repeat(4000)), Err(UnpackError::TooLarge { bound: Bound::Path, .. })));
        assert!(matches!(meaning(&"a/".repeat(257)), Err(UnpackError::TooLarge { bound: Bound::Depth, .. })));
    }

    #[test]
    fn whiteout_names_are_recognised() {
        assert_eq!(meaning("a/.wh.b").unwrap(), NameMeaning::Whiteout(name("a/b")));
        assert_eq!(meaning(".wh.b").unwrap(), NameMeaning::Whiteout(name("b")));
        assert_eq!(meaning("a/.wh..wh..opq").unwrap(), NameMeaning::Opaque(name("a")));
        assert_eq!(meaning(".wh..wh..opq").unwrap(), NameMeaning::Opaque(name("")));
        assert_eq!(meaning(".wh..wh.plnk/x").unwrap(), NameMeaning::Nothing);
        assert_eq!(meaning(".wh..wh.aufs").unwrap(), NameMeaning::Nothing);
    }
}
