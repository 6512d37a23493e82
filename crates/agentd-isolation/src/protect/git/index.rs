//! Parses git's index (`gitformat-index(5)`), as far as needed to know which version of a file git has checked out.

use std::collections::HashMap;

/// The maximum length of a name (`PATH_MAX`). A version 4 entry of 65 bytes can repeat a previous name of any length.
const MAX_NAME: usize = 4096;

/// The maximum number of entries that are kept, equal to the number that [`super::super::state::States`] compares.
const MAX_WANTED: usize = 8192;

/// The index entry of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct IndexEntry {
    object: Vec<u8>,
    /// The modification time in seconds and the size in bytes, both modulo 2^32, that the file had when git last wrote or added
    /// it.
    stat: (u32, u32),
}

impl IndexEntry {
    /// Returns whether git checked out another version of the file but could not write it. This holds if the entry names an
    /// object other than `before`, and does not describe the current file, which was modified at `seconds` and has `size` bytes.
    pub(in super::super) fn is_stale(&self, before: &Self, seconds: u32, size: u32) -> bool {
        self.object != before.object && self.stat != (seconds, size)
    }
}

/// The entries of an index that were read.
#[derive(Debug, Default)]
pub(in super::super) struct IndexEntries {
    pub by_name: HashMap<Vec<u8>, IndexEntry>,
    /// False if the index is damaged, has a name longer than [`MAX_NAME`], or more than [`MAX_WANTED`] wanted entries. The
    /// entries are then incomplete.
    pub is_complete: bool,
}

/// Returns the entries of the files for which `wanted` returns true.
pub(in super::super) fn entries(content: &[u8], object_bytes: usize, wanted: impl Fn(&[u8]) -> bool) -> IndexEntries {
    let mut found = IndexEntries::default();
    let mut cursor = Cursor { content, at: 0 };
    let Some((version, count)) = header(&mut cursor) else { return found };
    let mut name = Vec::new();
    for _ in 0..count {
        let Some(entry) = entry(&mut cursor, version, object_bytes, &mut name) else { return found };
        if wanted(&name) {
            if found.by_name.len() >= MAX_WANTED {
                return found;
            }
            found.by_name.insert(name.clone(), entry);
        }
    }
    found.is_complete = true;
    found
}

fn header(cursor: &mut Cursor<'_>) -> Option<(u32, u32)> {
    (cursor.take(4)? == b"DIRC").then_some(())?;
    let version = cursor.number()?;
    (2..=4).contains(&version).then_some((version, cursor.number()?))
}

/// Parses the next entry. `name` contains the name of the previous entry, and receives the name of this one.
fn entry(cursor: &mut Cursor<'_>, version: u32, object_bytes: usize, name: &mut Vec<u8>) -> Option<IndexEntry> {
    let start = cursor.at;
    let mut fields = [0; 10];
    for field in &mut fields {
        *field = cursor.number()?;
    }
    let object = cursor.take(object_bytes)?.to_vec();
    let flags = cursor.take(2)?;
    if version >= 3 && flags[0] & 0x40 != 0 {
        cursor.take(2)?;
    }
    if version == 4 {
        let kept = name.len().checked_sub(cursor.varint()?)?;
        name.truncate(kept);
        name.extend(cursor.until_zero()?);
    } else {
        *name = cursor.until_zero()?.to_vec();
        // A name ends with one to eight zero bytes, which pad the entry to a multiple of eight.
        let length = cursor.at - 1 - start;
        cursor.at = start + (length / 8 + 1) * 8;
    }
    (name.len() <= MAX_NAME).then_some(IndexEntry { object, stat: (fields[2], fields[9]) })
}

struct Cursor<'a> {
    content: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(bytes)?;
        let taken = self.content.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// Parses a number encoded like the offsets in pack files: seven bits per byte, with one added for each further byte.
    fn varint(&mut self) -> Option<usize> {
        let mut byte = self.take(1)?[0];
        let mut value = usize::from(byte & 0x7f);
        while byte & 0x80 != 0 {
            byte = self.take(1)?[0];
            value = value.checked_add(1)?.checked_mul(128)?.checked_add(usize::from(byte & 0x7f))?;
        }
        Some(value)
    }

    fn until_zero(&mut self) -> Option<&'a [u8]> {
        let rest = self.content.get(self.at..)?;
        let taken = self.take(rest.iter().position(|byte| *byte == 0)?)?;
        self.at += 1;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{fs, path::Path, process::Command};

    fn git(root: &Path, args: &[&str]) -> String {
        let output = Command::new("git").args(args).current_dir(root).env("GIT_CONFIG_GLOBAL", "/dev/null").output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn entries_are_those_that_git_lists_in_every_version() {
        for (format, bytes) in [("sha1", 20), ("sha256", 32)] {
            let root = tempfile::tempdir().unwrap();
            git(root.path(), &["init", "-q", "--object-format", format]);
            fs::create_dir_all(root.path().join("a/bc")).unwrap();
            let long = "n".repeat(200);
            for name in ["AGENTS.md", "a/bc/d", "a/bc/dd", "a/be", long.as_str()] {
                fs::write(root.path().join(name), name).unwrap();
            }
            git(root.path(), &["add", "-A"]);
            for version in ["2", "4"] {
                git(root.path(), &["update-index", "--index-version", version]);
                let content = fs::read(root.path().join(".git/index")).unwrap();
                let entries = entries(&content, bytes, |_| true);
                assert!(entries.is_complete, "{format}, version {version}");
                let mut read: Vec<_> = entries
                    .by_name
                    .into_iter()
                    .map(|(name, entry)| {
                        let object: String = entry.object.iter().map(|byte| format!("{byte:02x}")).collect();
                        format!("{object} {}", String::from_utf8(name).unwrap())
                    })
                    .collect();
                read.sort();
                let listed = git(root.path(), &["ls-files", "--format=%(objectname) %(path)"]);
                let mut listed: Vec<_> = listed.lines().map(str::to_owned).collect();
                listed.sort();
                assert_eq!(read, listed, "{format}, version {version}");
            }
        }
    }

    /// Creates a version 4 index. Its first name has `length` bytes, and each further name appends a byte to the previous one.
    fn growing(length: usize, count: u32) -> Vec<u8> {
        let mut content = b"DIRC\0\0\0\x04".to_vec();
        content.extend(count.to_be_bytes());
        for number in 0..count {
            content.extend([0; 63]);
            content.extend(vec![b'x'; if number == 0 { length } else { 1 }]);
            content.push(0);
        }
        content
    }

    #[test]
    fn entries_of_long_repeated_names_end_at_the_longest_path() {
        let names = |length| {
            let entries = entries(&growing(length, 3), 20, |_| true);
            (entries.by_name.len(), entries.is_complete)
        };
        assert_eq!(names(MAX_NAME), (1, false));
        assert_eq!(names(MAX_NAME + 1), (0, false));
        assert_eq!(names(8), (3, true));
    }

    #[test]
    fn entries_of_many_wanted_names_are_bounded() {
        // These names are shorter than the name limit, and each differs from the others.
        let mut content = b"DIRC\0\0\0\x04\0\0\x40\0".to_vec();
        for number in 0..0x4000 {
            content.extend([0; 62]);
            content.push(if number == 0 { 0 } else { 4 });
            content.extend(format!("{number:04x}\0").into_bytes());
        }
        let entries = entries(&content, 20, |_| true);
        assert_eq!((entries.by_name.len(), entries.is_complete), (MAX_WANTED, false));
    }

    proptest! {
        #[test]
        fn index_entries_of_any_bytes_terminate(version in 2u8..5, rest in prop::collection::vec(prop::num::u8::ANY, 0..300)) {
            let mut content = vec![b'D', b'I', b'R', b'C', 0, 0, 0, version];
            content.extend(rest);
            entries(&content, 20, |_| true);
        }
    }
}
