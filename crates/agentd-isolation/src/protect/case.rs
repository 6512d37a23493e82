//! Compares names as file systems do that ignore case: ext4, F2FS and tmpfs with `casefold`, XFS with `ascii-ci`, FAT, CIFS and
//! others.
//!
//! A key finds the names that such a file system may take for a name of the list. The kernel then decides: it finds the same
//! object by both names, or it does not.

use rustix::fs::{AtFlags, statat};
use std::{borrow::Cow, os::fd::AsFd, path::Path};

/// The characters outside of ASCII that Unicode's full case folding (`CaseFolding.txt`) and canonical decomposition turn into
/// ASCII.
const FOLDED: [(char, &str); 12] = [
    ('\u{212a}', "k"),
    ('\u{17f}', "s"),
    ('\u{df}', "ss"),
    ('\u{1e9e}', "ss"),
    ('\u{fb00}', "ff"),
    ('\u{fb01}', "fi"),
    ('\u{fb02}', "fl"),
    ('\u{fb03}', "ffi"),
    ('\u{fb04}', "ffl"),
    ('\u{fb05}', "st"),
    ('\u{fb06}', "st"),
    ('\u{37e}', ";"),
];

/// Returns the key of a name: equal for all names that a file system may take for the same ASCII name. Characters that have no
/// counterpart in ASCII are left out, because Linux ignores some of them (`fs/unicode`).
pub(super) fn key(name: &[u8]) -> Cow<'_, [u8]> {
    if name.is_ascii() {
        let has_capitals = name.iter().any(u8::is_ascii_uppercase);
        return if has_capitals { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) };
    }
    // A name that is not UTF-8 is compared byte by byte.
    let Ok(text) = std::str::from_utf8(name) else { return Cow::Borrowed(name) };
    let mut key = Vec::with_capacity(name.len());
    for character in text.chars() {
        if character.is_ascii() {
            key.extend(u8::try_from(character).ok().map(|byte| byte.to_ascii_lowercase()));
        } else if let Some((_, folded)) = FOLDED.iter().find(|(own, _)| *own == character) {
            key.extend_from_slice(folded.as_bytes());
        }
    }
    Cow::Owned(key)
}

/// Returns whether the kernel finds the same object by two paths below an opened directory.
pub(super) fn is_same(directory: impl AsFd, one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| statat(&directory, path, AtFlags::SYMLINK_NOFOLLOW).map(|stat| (stat.st_dev, stat.st_ino)).ok();
    identity(one).is_some_and(|identity_of_one| identity(other) == Some(identity_of_one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_equal_for_every_name_that_a_file_system_takes_for_the_same() {
        let spellings = [
            (".git", &[".GIT", ".Git", ".g\u{200c}it", "\u{feff}.git", ".gi\u{ad}t"][..]),
            (".vscode", &[".V\u{17f}code", ".VSCODE"]),
            ("hooks", &["hoo\u{212a}s", "HOOK\u{17f}"]),
            ("office", &["o\u{fb03}ce", "O\u{fb00}ice"]),
        ];
        for (name, others) in spellings {
            assert_eq!(*key(name.as_bytes()), *name.as_bytes());
            for other in others {
                assert_eq!(*key(other.as_bytes()), *name.as_bytes(), "{other}");
            }
        }
        for other in [&b".git2"[..], b"git", b".g\xffit"] {
            assert_ne!(*key(other), *b".git", "{other:?}");
        }
    }
}
