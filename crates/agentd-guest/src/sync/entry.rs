//! The transfer format of copies between a host and a guest. Each head is a little-endian `u32` length, followed by that many
//! bytes of a postcard-encoded [`Entry`]. The head of a file is followed by the file's bytes. A length of zero ends the transfer.

use super::error::CopyError;
use serde::{Deserialize, Serialize};

/// The maximum length of a head, in bytes. A head contains two paths, and the kernel accepts no path longer than 4096 bytes.
const MAX_HEAD: usize = 16 << 10;

/// The size of a head's length field, in bytes.
const LENGTH: usize = 4;

/// The number of bytes that always suffice to decode a head or to refuse it.
pub(super) const MAX_ENTRY_BYTES: usize = LENGTH + MAX_HEAD;

/// A path that is to be created, replaced or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The path, relative to the copied directory.
    pub path: Vec<u8>,
    /// The new content of the path.
    pub what: Content,
}

/// The content of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Content {
    /// Nothing: a file, a link or an empty directory is removed.
    Nothing,
    /// A directory.
    Directory {
        /// The permissions.
        mode: u32,
    },
    /// A file, whose bytes follow.
    File {
        /// The permissions.
        mode: u32,
        /// Modification time: seconds since 1970, and nanoseconds.
        modified: (i64, u32),
        /// The size in bytes.
        size: u64,
    },
    /// A symbolic link.
    Link {
        /// The target.
        to: Vec<u8>,
    },
}

impl Content {
    /// Returns true for a file or a directory. Neither replaces the other, so the kind of an existing path is kept.
    pub fn keeps_place(&self) -> bool {
        matches!(self, Self::File { .. } | Self::Directory { .. })
    }
}

impl Entry {
    /// Appends the head of the entry to `to`.
    pub fn encode(&self, to: &mut Vec<u8>) -> Result<(), CopyError> {
        let head = postcard::to_allocvec(self).map_err(|e| CopyError::Malformed(e.to_string()))?;
        let length = u32::try_from(head.len()).map_err(|e| CopyError::Malformed(e.to_string()))?;
        to.extend_from_slice(&length.to_le_bytes());
        to.extend_from_slice(&head);
        Ok(())
    }
}

/// The end of all entries.
pub(super) const END: [u8; LENGTH] = [0; LENGTH];

/// The result of decoding the next head.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DecodedEntry {
    /// A head, and the number of bytes that it took.
    Entry(Entry, usize),
    /// The [`END`] of all entries.
    End,
    /// The head is incomplete.
    Incomplete,
}

/// Decodes the head at the start of `bytes`.
pub(super) fn decode(bytes: &[u8]) -> Result<DecodedEntry, CopyError> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else { return Ok(DecodedEntry::Incomplete) };
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    match length {
        0 => return Ok(DecodedEntry::End),
        1..=MAX_HEAD => {}
        _ => return Err(CopyError::Malformed(format!("an entry head of {length} bytes is over the limit of {MAX_HEAD}"))),
    }
    let Some(head) = rest.get(..length) else { return Ok(DecodedEntry::Incomplete) };
    match postcard::take_from_bytes(head) {
        Ok((entry, [])) => Ok(DecodedEntry::Entry(entry, LENGTH + length)),
        Ok(_) => Err(CopyError::Malformed("an entry head is longer than its content".to_owned())),
        Err(error) => Err(CopyError::Malformed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry() -> impl Strategy<Value = Entry> {
        let what = prop_oneof![
            Just(Content::Nothing),
            any::<u32>().prop_map(|mode| Content::Directory { mode }),
            (any::<u32>(), any::<(i64, u32)>(), any::<u64>()).prop_map(|(mode, modified, size)| Content::File {
                mode,
                modified,
                size
            }),
            prop::collection::vec(any::<u8>(), 0..50).prop_map(|to| Content::Link { to }),
        ];
        (prop::collection::vec(any::<u8>(), 0..50), what).prop_map(|(path, what)| Entry { path, what })
    }

    proptest! {
        #[test]
        fn encoded_entry_decodes_to_same_entry(entry in entry(), cut in 0..10usize) {
            let mut bytes = Vec::new();
            entry.encode(&mut bytes).unwrap();
            let whole = bytes.len();
            prop_assert_eq!(decode(&bytes[..whole.saturating_sub(cut + 1)]), Ok(DecodedEntry::Incomplete));
            bytes.push(7);
            prop_assert_eq!(decode(&bytes), Ok(DecodedEntry::Entry(entry, whole)));
        }

        #[test]
        fn random_bytes_do_not_panic_decoder(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            decode(&bytes).ok();
            decode(&[&u32::try_from(bytes.len()).unwrap().to_le_bytes()[..], &bytes].concat()).ok();
        }
    }

    #[test]
    fn decode_recognises_end_and_refuses_oversized_head() {
        assert_eq!(decode(&END), Ok(DecodedEntry::End));
        assert_eq!(decode(&END[..3]), Ok(DecodedEntry::Incomplete));
        assert!(matches!(decode(&u32::MAX.to_le_bytes()), Err(CopyError::Malformed(_))));
    }
}
