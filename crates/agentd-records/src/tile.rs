//! The files of a log: tiles and entry bundles, as <https://c2sp.org/tlog-tiles> defines their names and contents.

use crate::merkle::Hash;
use std::path::PathBuf;

/// The number of hashes of a full tile, and of entries of a full bundle.
pub(crate) const WIDTH: u64 = 256;

/// The number of levels of tiles that a tree of 2^64 leaves needs.
pub(crate) const LEVELS: usize = 8;

/// The maximum length of an entry in bytes: the length field has two bytes.
pub(crate) const MAX_ENTRY: usize = u16::MAX as usize;

/// A file is not a sequence of hashes or entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TileError {
    /// The length of a tile is not a multiple of 32 bytes.
    #[error("the tile ends within a hash")]
    PartOfHash,
    /// An entry is longer than the rest of its bundle.
    #[error("the bundle ends within an entry")]
    PartOfEntry,
    /// A file has more than 256 hashes or entries.
    #[error("the file has more than 256 items")]
    TooMany,
}

/// The contents of a series of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// Bundles of entries.
    Entries,
    /// Tiles of the level.
    Hashes(usize),
}

impl FileKind {
    /// Returns the folder of the files, relative to the folder of the log.
    pub fn folder(self) -> PathBuf {
        match self {
            Self::Entries => PathBuf::from("tile/entries"),
            Self::Hashes(level) => PathBuf::from(format!("tile/{level}")),
        }
    }

    /// Returns the path of a full file, relative to the folder of the log.
    pub fn full(self, index: u64) -> PathBuf {
        self.folder().join(name(index))
    }

    /// Returns the path of the folder of a partial file, relative to the folder of the log.
    pub fn partial(self, index: u64) -> PathBuf {
        self.folder().join(format!("{}.p", name(index)))
    }

    /// Returns the maximum size of a file in bytes.
    pub fn max_bytes(self) -> usize {
        match self {
            Self::Entries => 256 * (2 + MAX_ENTRY),
            Self::Hashes(_) => 256 * Hash::LENGTH,
        }
    }

    /// Returns the length of the first `width` items in bytes; `None` if there are fewer items.
    pub fn prefix(self, bytes: &[u8], width: u64) -> Option<usize> {
        let width = usize::try_from(width).ok()?;
        let length = match self {
            Self::Hashes(_) => width.checked_mul(Hash::LENGTH)?,
            Self::Entries => {
                let mut rest = bytes;
                for _ in 0..width {
                    rest = split_entry(rest)?.1;
                }
                bytes.len() - rest.len()
            }
        };
        (length <= bytes.len()).then_some(length)
    }
}

/// Returns the number of items of the last file of a level: 0 if all files are full.
pub(crate) fn partial_width(size: u64, level: usize) -> u64 {
    items(size, level) % WIDTH
}

/// Returns the number of hashes of a level in a tree of `size` leaves.
pub(crate) fn items(size: u64, level: usize) -> u64 {
    size.checked_shr(u32::try_from(level * 8).unwrap_or(u32::MAX)).unwrap_or(0)
}

/// Returns the name of a file: groups of three digits, all but the last with an `x`.
fn name(index: u64) -> String {
    let (mut rest, mut name) = (index / 1000, format!("{:03}", index % 1000));
    while rest > 0 {
        name = format!("x{:03}/{name}", rest % 1000);
        rest /= 1000;
    }
    name
}

/// Splits off the first entry of a bundle.
fn split_entry(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// Appends an entry to a bundle. An entry has at most [`MAX_ENTRY`] bytes.
pub(crate) fn append_entry(bundle: &mut Vec<u8>, entry: &[u8]) {
    let length = u16::try_from(entry.len()).unwrap_or(u16::MAX);
    bundle.extend(length.to_be_bytes());
    bundle.extend(&entry[..usize::from(length)]);
}

/// Returns the entries of a bundle.
///
/// # Errors
/// The bytes are not a whole number of entries, or more than 256.
pub(crate) fn entries(mut bundle: &[u8]) -> Result<Vec<&[u8]>, TileError> {
    let mut entries = Vec::new();
    while !bundle.is_empty() {
        let (entry, rest) = split_entry(bundle).ok_or(TileError::PartOfEntry)?;
        entries.push(entry);
        bundle = rest;
    }
    if entries.len() > 256 { Err(TileError::TooMany) } else { Ok(entries) }
}

/// Returns the hashes of a tile.
///
/// # Errors
/// The bytes are not a whole number of hashes, or more than 256.
pub(crate) fn hashes(tile: &[u8]) -> Result<Vec<Hash>, TileError> {
    let (hashes, []) = tile.as_chunks() else { return Err(TileError::PartOfHash) };
    if hashes.len() > 256 { Err(TileError::TooMany) } else { Ok(hashes.iter().copied().map(Hash).collect()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_specification() {
        assert_eq!(FileKind::Hashes(0).full(1_234_067), PathBuf::from("tile/0/x001/x234/067"));
        assert_eq!(FileKind::Entries.full(0), PathBuf::from("tile/entries/000"));
        assert_eq!(FileKind::Hashes(7).partial(999), PathBuf::from("tile/7/999.p"));
        assert_eq!(FileKind::Entries.partial(1000), PathBuf::from("tile/entries/x001/000.p"));
    }

    #[test]
    fn widths_are_those_of_the_example_of_the_specification() {
        // "A tree of size 70,000": 273 full tiles of level 0 and 112 hashes, one of level 1 and 17 hashes, one hash of level 2.
        assert_eq!((items(70_000, 0) / WIDTH, partial_width(70_000, 0)), (273, 112));
        assert_eq!((items(70_000, 1) / WIDTH, partial_width(70_000, 1)), (1, 17));
        assert_eq!((items(70_000, 2) / WIDTH, partial_width(70_000, 2)), (0, 1));
        assert_eq!(items(u64::MAX, 8), 0);
    }

    #[test]
    fn damaged_files_are_refused() {
        assert_eq!(hashes(&[0; 33]), Err(TileError::PartOfHash));
        assert_eq!(hashes(&[0; 257 * 32]), Err(TileError::TooMany));
        assert_eq!(entries(&[0]), Err(TileError::PartOfEntry));
        assert_eq!(entries(&[0, 2, 1]), Err(TileError::PartOfEntry));
        assert_eq!(entries(&[0; 257 * 2]), Err(TileError::TooMany));
        assert_eq!(entries(&[0, 1, 7, 0, 0]), Ok(vec![&[7][..], &[]]));
        assert_eq!(FileKind::Entries.prefix(&[0, 1, 7, 0, 0, 9], 2), Some(5));
        assert_eq!(FileKind::Entries.prefix(&[0, 1, 7, 0, 0, 9], 3), None);
    }
}
