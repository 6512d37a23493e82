//! The hashes of the Merkle tree (RFC 6962, section 2.1), and the right edge of a tree that grows.

use crate::base64;
use data_encoding::BASE64;
use sha2::{Digest as _, Sha256};
use std::fmt;

/// A hash of the Merkle tree.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash(pub [u8; Hash::LENGTH]);

impl Hash {
    /// The length in bytes.
    pub const LENGTH: usize = 32;

    /// Returns the hash of a leaf.
    pub fn leaf(entry: &[u8]) -> Self {
        Self(Sha256::new().chain_update([0]).chain_update(entry).finalize().into())
    }

    /// Returns the hash of a node.
    pub fn node(left: Self, right: Self) -> Self {
        Self(Sha256::new().chain_update([1]).chain_update(left.0).chain_update(right.0).finalize().into())
    }

    /// Returns the root of a tree without leaves.
    pub fn empty() -> Self {
        Self(Sha256::digest(b"").into())
    }

    /// Parses the canonical base64 form.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        base64::decode(text)?.try_into().ok().map(Self)
    }
}

/// Prints the base64 form, which checkpoints and proofs contain.
impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

/// The right edge of a tree: the roots of its complete subtrees. Adding leaves needs nothing else, so the memory for a log of any
/// size is constant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edge {
    size: u64,
    /// The roots of the complete subtrees, the largest first: one for each bit of the size.
    roots: Vec<Hash>,
}

impl Edge {
    /// Returns the number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf. Calls `complete` with each hash that becomes an entry of a tile, and with the level of that tile.
    pub fn push(&mut self, leaf: Hash, mut complete: impl FnMut(usize, Hash)) {
        let (mut hash, mut height, mut rest) = (leaf, 0, self.size);
        complete(0, hash);
        while rest & 1 == 1 {
            let Some(left) = self.roots.pop() else { break };
            hash = Hash::node(left, hash);
            height += 1;
            rest >>= 1;
            if height % 8 == 0 {
                complete(height / 8, hash);
            }
        }
        self.roots.push(hash);
        self.size += 1;
    }

    /// Returns the root of the tree.
    pub fn root(&self) -> Hash {
        self.roots.iter().rev().copied().reduce(|right, left| Hash::node(left, right)).unwrap_or_else(Hash::empty)
    }

    /// Restores the edge of a tree of `size` leaves from the partial tiles of its levels, the lowest level first.
    pub fn restore(size: u64, partial: &[Vec<Hash>]) -> Self {
        let mut roots = Vec::new();
        for hashes in partial.iter().rev() {
            let mut level = Self::default();
            hashes.iter().for_each(|hash| level.push(*hash, |_, _| ()));
            roots.extend(level.roots);
        }
        Self { size, roots }
    }
}
