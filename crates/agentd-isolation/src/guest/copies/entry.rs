//! What is on its way between a host and a guest: heads, each a little-endian `u32` length and that many bytes of a postcard-encoded
//! [`Entry`], after that of a file as many bytes as it has, and at the end a length of zero.

use super::error::CopyError;
use serde::{Deserialize, Serialize};

/// The longest head: two paths, of which the kernel takes none that is longer than 4096 bytes.
const MOST_HEAD: usize = 16 << 10;

/// Bytes of a head's length.
const LENGTH: usize = 4;

/// So many bytes are a whole head, or none.
pub(super) const MOST: usize = LENGTH + MOST_HEAD;

/// One thing that is to be made, or to be no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Its path below what is copied.
    pub path: Vec<u8>,
    /// What is to be there.
    pub what: What,
}

/// What is to be at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum What {
    /// Nothing, if it is a file, a link, or an empty directory.
    Nothing,
    /// A directory.
    Directory {
        /// Its permissions.
        mode: u32,
    },
    /// A file, whose bytes follow.
    File {
        /// Its permissions.
        mode: u32,
        /// When it was changed last: seconds since 1970, and nanoseconds.
        modified: (i64, u32),
        /// How many bytes.
        size: u64,
    },
    /// A symbolic link.
    Link {
        /// What it holds.
        to: Vec<u8>,
    },
}

impl What {
    /// Whether a file stays a file with this, and a directory a directory.
    pub fn keeps_place(&self) -> bool {
        matches!(self, Self::File { .. } | Self::Directory { .. })
    }
}

impl Entry {
    /// Appends its head to `to`.
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

/// What is next among bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A head, and the bytes that it took.
    Entry(Entry, usize),
    /// [`END`].
    End,
    /// Not all of a head is there.
    Incomplete,
}

/// Reads the head that `bytes` begin with.
pub(super) fn decode(bytes: &[u8]) -> Result<Next, CopyError> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else { return Ok(Next::Incomplete) };
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    match length {
        0 => return Ok(Next::End),
        1..=MOST_HEAD => {}
        _ => return Err(CopyError::Malformed(format!("a head of {length} bytes"))),
    }
    let Some(head) = rest.get(..length) else { return Ok(Next::Incomplete) };
    match postcard::take_from_bytes(head) {
        Ok((entry, [])) => Ok(Next::Entry(entry, LENGTH + length)),
        Ok(_) => Err(CopyError::Malformed("a head that is longer than what it holds".to_owned())),
        Err(error) => Err(CopyError::Malformed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry() -> impl Strategy<Value = Entry> {
        let what = prop_oneof![
            Just(What::Nothing),
            any::<u32>().prop_map(|mode| What::Directory { mode }),
            (any::<u32>(), any::<(i64, u32)>(), any::<u64>()).prop_map(|(mode, modified, size)| What::File {
                mode,
                modified,
                size
            }),
            prop::collection::vec(any::<u8>(), 0..50).prop_map(|to| What::Link { to }),
        ];
        (prop::collection::vec(any::<u8>(), 0..50), what).prop_map(|(path, what)| Entry { path, what })
    }

    proptest! {
        #[test]
        fn an_entry_comes_back_as_it_was(entry in entry(), cut in 0..10usize) {
            let mut bytes = Vec::new();
            entry.encode(&mut bytes).unwrap();
            let whole = bytes.len();
            prop_assert_eq!(decode(&bytes[..whole.saturating_sub(cut + 1)]), Ok(Next::Incomplete));
            bytes.push(7);
            prop_assert_eq!(decode(&bytes), Ok(Next::Entry(entry, whole)));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            decode(&bytes).ok();
            decode(&[&u32::try_from(bytes.len()).unwrap().to_le_bytes()[..], &bytes].concat()).ok();
        }
    }

    #[test]
    fn the_end_is_the_end_and_what_is_too_long_is_refused() {
        assert_eq!(decode(&END), Ok(Next::End));
        assert_eq!(decode(&END[..3]), Ok(Next::Incomplete));
        assert!(matches!(decode(&u32::MAX.to_le_bytes()), Err(CopyError::Malformed(_))));
    }
}
