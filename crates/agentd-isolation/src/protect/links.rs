//! Follows symbolic links that a payload may have created. The C library needs seconds for a single chain of links with long
//! targets, so the work for all links of a comparison is bounded.

use super::{
    gaps::{Cause, Gaps},
    interrupt::Interrupt,
    read,
};
use rustix::{
    fs::{CWD, FileType, OFlags, fstat, readlinkat},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

/// The bound for the look-ups of all paths together: the length of each path in bytes, and [`LOOKUP`]. The kernel needs less than
/// a second for this.
const MAX_WORK: usize = 16 << 20;

/// The work of a look-up that does not depend on the length of its path.
const LOOKUP: usize = 64;

/// The maximum number of links that lead to one object; the kernel fails beyond it (`MAXSYMLINKS`).
const MAX_CHAIN: usize = 40;

/// Follows links until a bound is reached.
#[derive(Debug)]
pub(super) struct Links {
    left: usize,
    interrupt: Interrupt,
    /// The first path, for each cause, that was not followed or could not be read.
    pub gaps: Gaps,
}

/// Where a path leads.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Resolved {
    /// The absolute paths of the links that were followed, in order. No component above such a link is a link.
    pub links: Vec<PathBuf>,
    /// The path of the object, without links; `None` if no object is there or the bound was reached.
    pub target: Option<PathBuf>,
    /// The path that could not be looked up, other than because it does not exist.
    pub failed: Option<PathBuf>,
}

impl Links {
    pub(super) fn new(interrupt: &Interrupt) -> Self {
        Self { left: MAX_WORK, interrupt: interrupt.clone(), gaps: Gaps::default() }
    }

    /// Follows all links in an absolute path.
    pub(super) fn resolve(&mut self, path: &Path) -> Resolved {
        let mut resolved = Resolved::default();
        let mut walk = Walk { real: PathBuf::from("/"), waiting: Vec::new() };
        // Most paths have no link before the last component, which takes one look-up to see.
        let opened = if path.components().any(|part| part == Component::ParentDir) {
            Err(Errno::LOOP)
        } else {
            read::open(CWD, path, OFlags::PATH).and_then(fstat)
        };
        let kind = opened.map(|stat| FileType::from_raw_mode(stat.st_mode));
        match (kind, path.parent(), path.file_name()) {
            (Ok(FileType::Symlink), Some(parent), Some(name)) => {
                walk = Walk { real: parent.to_path_buf(), waiting: vec![name.to_owned()] };
            }
            (Ok(kind), ..) if kind != FileType::Symlink => {
                resolved.target = Some(path.components().collect());
                return resolved;
            }
            _ => walk.prepend(path),
        }
        while let Some(name) = walk.waiting.pop() {
            if name == ".." {
                walk.real.pop();
                continue;
            }
            let place = walk.real.join(&name);
            if let Err(cause) = self.spend(place.as_os_str().len()) {
                self.gaps.add(path, cause);
                return resolved;
            }
            match readlinkat(CWD, &place, Vec::new()) {
                Ok(_) if resolved.links.len() == MAX_CHAIN => return resolved,
                Ok(target) => {
                    resolved.links.push(place);
                    walk.prepend(Path::new(OsStr::from_bytes(target.as_bytes())));
                }
                Err(Errno::INVAL) => walk.real = place,
                Err(errno) => {
                    resolved.failed = Some(place).filter(|_| !read::is_absent(errno));
                    return resolved;
                }
            }
        }
        resolved.target = Some(walk.real);
        resolved
    }

    /// Follows links like [`Links::resolve`]. A path that cannot be looked up is added to the gaps.
    pub(super) fn follow(&mut self, path: &Path) -> Resolved {
        let resolved = self.resolve(path);
        if let Some(failed) = &resolved.failed {
            self.gaps.add(failed.parent().unwrap_or(failed), Cause::Unreadable);
        }
        resolved
    }

    /// Counts one look-up. Returns the reason if the look-up is not permitted.
    fn spend(&mut self, length: usize) -> Result<(), Cause> {
        if self.interrupt.is_due() {
            return Err(Cause::Interrupted);
        }
        let left = self.left.checked_sub(length + LOOKUP);
        self.left = left.unwrap_or(0);
        left.map(drop).ok_or(Cause::TooManyLinks)
    }
}

/// A path that is being resolved.
struct Walk {
    /// The part without links.
    real: PathBuf,
    /// The names that follow, the last one first.
    waiting: Vec<OsString>,
}

impl Walk {
    /// Continues with the components of `path`, before those that already wait.
    fn prepend(&mut self, path: &Path) {
        if path.is_absolute() {
            self.real = PathBuf::from("/");
        }
        self.waiting.extend(path.components().rev().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    fn directory() -> (tempfile::TempDir, PathBuf) {
        let held = tempfile::tempdir().unwrap();
        let path = held.path().canonicalize().unwrap();
        (held, path)
    }

    fn new_links() -> Links {
        Links::new(&Interrupt::default())
    }

    #[test]
    fn resolve_names_every_link_and_the_object_as_the_kernel_does() {
        let (_held, root) = directory();
        let at = |name: &str| root.join(name);
        fs::create_dir_all(at("d/e")).unwrap();
        fs::write(at("d/e/file"), "").unwrap();
        for (target, link) in [("d/../d", "a"), ("a/e", "b"), ("b/file", "c"), ("gone", "dangling"), ("loop", "loop")] {
            symlink(target, at(link)).unwrap();
        }
        symlink(at("d"), at("absolute")).unwrap();
        let cases = [
            ("d/e/file", &[][..]),
            ("d/../d/./e", &[]),
            ("c", &["c", "b", "a"]),
            ("b/file", &["b", "a"]),
            ("absolute/e/../e/file", &["absolute"]),
            ("dangling", &["dangling"]),
            ("d/e/file/x", &[]),
        ];
        for (path, links) in cases {
            let resolved = new_links().resolve(&at(path));
            assert_eq!(resolved.target, at(path).canonicalize().ok(), "{path}");
            assert_eq!(resolved.links, links.iter().map(|link| at(link)).collect::<Vec<_>>(), "{path}");
        }
        let (mut links, endless) = (new_links(), at("loop"));
        assert_eq!((links.resolve(&endless).target, links.gaps), (None, Gaps::default()));
    }

    #[test]
    fn resolve_beyond_the_bound_names_the_path() {
        let (_held, root) = directory();
        // Each link leads through a long path to the next one.
        let long = "d/../".repeat(500);
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("0"), "").unwrap();
        for number in 1..30 {
            symlink(format!("{long}{}", number - 1), root.join(number.to_string())).unwrap();
        }
        let last = root.join("29");
        let (mut enough, mut little) = (new_links(), Links { left: 100_000, ..new_links() });
        assert_eq!((enough.resolve(&last).target, enough.gaps.is_empty()), (Some(root.join("0")), true));
        assert_eq!(little.resolve(&last).target, None);
        let gaps: Vec<_> = little.gaps.iter().map(|gap| (gap.path.clone(), gap.cause)).collect();
        assert_eq!(gaps, [(last, Cause::TooManyLinks)]);
    }
}
