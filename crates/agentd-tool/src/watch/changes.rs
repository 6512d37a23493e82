//! The changes that a watch has seen, within its limits.

use super::message::{ChangeKind, WatchEnd, WatchedChange};
use ignore::overrides::Override;
use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

/// The maximum length of all paths of a watch, in bytes.
const MAX_PATHS: usize = 4 << 20;

/// The changes that a watch has seen.
pub(super) struct SeenChanges {
    globs: Override,
    max: u64,
    bytes: usize,
    list: Vec<WatchedChange>,
}

impl SeenChanges {
    /// Creates a list of at most `max` changes.
    pub(super) fn new(globs: Override, max: u64) -> Self {
        Self { globs, max, bytes: 0, list: Vec::new() }
    }

    /// Returns the changes.
    pub(super) fn into_list(self) -> Vec<WatchedChange> {
        self.list
    }

    /// Adds a change, if its path matches the patterns. A change that repeats the one before is left out. Returns the reason if
    /// the list has reached a limit.
    pub(super) fn add(&mut self, kind: ChangeKind, path: &[u8], from: Option<&[u8]>, directory: bool) -> Option<WatchEnd> {
        let matches = self.matches(path, directory) || from.is_some_and(|from| self.matches(from, directory));
        let change = WatchedChange { kind, path: path.into(), from: from.map(Into::into), directory };
        if !matches || self.list.last() == Some(&change) {
            return None;
        }
        let bytes = path.len() + from.map_or(0, <[u8]>::len);
        if self.bytes + bytes > MAX_PATHS {
            return Some(WatchEnd::Bytes);
        }
        self.bytes += bytes;
        self.list.push(change);
        (self.list.len() as u64 >= self.max).then_some(WatchEnd::Count)
    }

    fn matches(&self, path: &[u8], directory: bool) -> bool {
        // Without patterns, nothing is whitelisted and nothing is ignored.
        let matched = self.globs.matched(Path::new(OsStr::from_bytes(path)), directory);
        if self.globs.num_whitelists() == 0 { !matched.is_ignore() } else { matched.is_whitelist() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::globs;

    fn seen(patterns: &[&str], max: u64) -> SeenChanges {
        SeenChanges::new(globs(&patterns.iter().map(|&text| text.to_owned()).collect::<Vec<_>>()).unwrap(), max)
    }

    #[test]
    fn change_is_kept_if_one_of_its_paths_matches() {
        for (patterns, kept) in [(&[][..], 4), (&["*.rs"], 3), (&["!*.rs"], 2), (&["src/**"], 2)] {
            let mut seen = seen(patterns, 100);
            for (path, from) in [("a.rs", None), ("src/b.rs", Some("b.rs")), ("c", Some("src/c.rs")), ("d", None)] {
                assert_eq!(seen.add(ChangeKind::Renamed, path.as_bytes(), from.map(str::as_bytes), false), None);
            }
            assert_eq!(seen.into_list().len(), kept, "{patterns:?}");
        }
    }

    #[test]
    fn list_ends_at_its_limits() {
        let mut few = seen(&[], 2);
        assert_eq!(few.add(ChangeKind::Modified, b"a", None, false), None);
        assert_eq!(few.add(ChangeKind::Modified, b"a", None, false), None, "a repetition does not count");
        assert_eq!(few.add(ChangeKind::Removed, b"a", None, false), Some(WatchEnd::Count));
        assert_eq!(few.into_list().len(), 2);
        let (mut long, mut count) = (seen(&[], u64::MAX), 0_u32);
        let end = loop {
            count += 1;
            let path = [count.to_string().as_bytes(), &[b'a'; 4000]].concat();
            if let Some(end) = long.add(ChangeKind::Created, &path, None, false) {
                break end;
            }
        };
        assert_eq!(end, WatchEnd::Bytes);
        assert!(long.bytes <= MAX_PATHS && long.bytes > MAX_PATHS / 2);
    }
}
