//! Verifies a whole log: every byte of every file, against the signature of the checkpoint.

use super::{
    error::LogError,
    read::{LogReader, width},
};
use crate::{
    checkpoint::{Checkpoint, InvalidCheckpoint},
    key_ring::KeyRing,
    leaf::{Leaf, LeafError},
    merkle::{Edge, Hash},
    note::{KeyId, NoteError, SignedNote},
    tile::{self, FileKind, LEVELS, TileError, WIDTH},
};

/// The reason why a log is not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log differs from the signed log.
    #[error("audit log: {0} — the log was changed or damaged after it was written: keep a copy of it, and restore a backup")]
    Altered(#[from] Alteration),
    /// The checkpoint has a signature of an unknown key.
    #[error(
        "audit log: the checkpoint has a signature of the unknown key {0} — if `agentd signing-key rotate` was interrupted, run it again"
    )]
    UnknownKey(KeyId),
    /// A signed leaf is malformed.
    #[error("audit log: leaf {index}: {source}")]
    Leaf {
        /// The index.
        index: u64,
        /// The cause.
        source: LeafError,
    },
    /// The kept checkpoint is not signed with a key of this log.
    #[error("kept checkpoint: {0} — name a checkpoint of this log, with its signature")]
    Kept(NoteError),
    /// The kept text is not a checkpoint.
    #[error("kept checkpoint: {0} — name a checkpoint of this log, with its signature")]
    KeptForm(InvalidCheckpoint),
    /// The kept checkpoint belongs to another log.
    #[error("kept checkpoint: it belongs to the log {0} — name a checkpoint of this log")]
    KeptOrigin(String),
}

/// A difference between a log and the signed log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Alteration {
    /// The checkpoint of the log is not signed with a known key.
    #[error("checkpoint: {0}")]
    Signature(NoteError),
    /// The checkpoint is signed only with keys that are no longer in use.
    #[error("the checkpoint is not signed with the key in use")]
    OldKey,
    /// The checkpoint is malformed.
    #[error("{0}")]
    Checkpoint(InvalidCheckpoint),
    /// A file is malformed.
    #[error("leaves {first} to {last}: {source}")]
    File {
        /// The first leaf of the file.
        first: u64,
        /// The last leaf of the file.
        last: u64,
        /// The cause.
        source: TileError,
    },
    /// A leaf does not match its hash.
    #[error("leaf {0} does not match its hash in the tile")]
    Leaf(u64),
    /// A tile does not match the level below.
    #[error("tile {index} of level {level} does not match the leaves")]
    Tile {
        /// The level.
        level: usize,
        /// The index of the tile.
        index: u64,
    },
    /// All tiles match the leaves, but the checkpoint was signed for other leaves.
    #[error("the checkpoint was signed for other leaves")]
    Root,
    /// The log has fewer leaves than when the checkpoint was kept.
    #[error("the log has {size} leaves and had {kept} when the checkpoint was kept: leaves were removed")]
    Truncated {
        /// The number of leaves.
        size: u64,
        /// The number of leaves of the kept checkpoint.
        kept: u64,
    },
    /// The first leaves are not those of the checkpoint that was kept.
    #[error("the first {0} leaves of the log differ from those of the kept checkpoint: the log was rewritten")]
    Rewritten(u64),
}

/// A log that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The checkpoint of the log.
    pub checkpoint: Checkpoint,
    /// The keys that have signed the checkpoint.
    pub signed_by: Vec<KeyId>,
    /// The size of the kept checkpoint, whose leaves are all in the log.
    pub kept: Option<u64>,
}

/// Verifies the log: the signature of its checkpoint by the key in use, every leaf, and every hash. If `kept` is the text of an
/// earlier checkpoint, the log must begin with the leaves of that checkpoint. The needed memory does not depend on the size.
///
/// # Errors
/// [`VerifyError`] for every difference.
pub fn verify(reader: &LogReader, ring: &KeyRing, kept: Option<&[u8]>) -> Result<Verified, VerifyError> {
    let (checkpoint, signed_by) = trusted_checkpoint(&reader.note()?, ring)?;
    let kept = kept.map(|kept| kept_checkpoint(kept, ring, &checkpoint)).transpose()?;
    if let Some(kept) = kept.as_ref().filter(|kept| kept.size > checkpoint.size) {
        return Err(Alteration::Truncated { size: checkpoint.size, kept: kept.size }.into());
    }
    let mut check = Check { reader, size: checkpoint.size, edge: Edge::default(), tiles: Default::default() };
    for index in 0..LogReader::bundles(checkpoint.size) {
        check.bundle(index, kept.as_ref())?;
    }
    check.last_tiles()?;
    if check.edge.root() != checkpoint.root {
        return Err(Alteration::Root.into());
    }
    // The loop compares a kept checkpoint after its last leaf. A checkpoint of an empty log has no such leaf.
    if kept.as_ref().is_some_and(|kept| kept.size == 0 && kept.root != Hash::empty()) {
        return Err(Alteration::Rewritten(0).into());
    }
    Ok(Verified { checkpoint, signed_by, kept: kept.map(|kept| kept.size) })
}

impl LogReader {
    /// Returns the checkpoint of the log as it is on disk and its content, after its signature was verified.
    ///
    /// # Errors
    /// [`VerifyError`].
    pub fn checkpoint(&self, ring: &KeyRing) -> Result<(SignedNote, Checkpoint), VerifyError> {
        let note = self.note()?;
        let (checkpoint, _) = trusted_checkpoint(&note, ring)?;
        Ok((note, checkpoint))
    }
}

/// Returns the checkpoint of a log if the key in use has signed it, and the keys that have signed it.
fn trusted_checkpoint(note: &SignedNote, ring: &KeyRing) -> Result<(Checkpoint, Vec<KeyId>), VerifyError> {
    let (text, signatures) = note.verify(ring.verifiers()).map_err(Alteration::Signature)?;
    let checkpoint: Checkpoint = text.parse().map_err(Alteration::Checkpoint)?;
    if let Some(unknown) = signatures.unknown.into_iter().next() {
        return Err(VerifyError::UnknownKey(unknown));
    }
    let is_in_use =
        |id: &KeyId| ring.find(id).is_some_and(|key| key.until.is_none() && key.verifier.key_id().name == checkpoint.origin);
    if !signatures.known.iter().any(is_in_use) {
        return Err(Alteration::OldKey.into());
    }
    Ok((checkpoint, signatures.known))
}

fn kept_checkpoint(kept: &[u8], ring: &KeyRing, current: &Checkpoint) -> Result<Checkpoint, VerifyError> {
    let note = SignedNote::parse(kept).map_err(VerifyError::Kept)?;
    let (text, _) = note.verify(ring.verifiers()).map_err(VerifyError::Kept)?;
    let kept: Checkpoint = text.parse().map_err(VerifyError::KeptForm)?;
    if kept.origin == current.origin { Ok(kept) } else { Err(VerifyError::KeptOrigin(kept.origin)) }
}

/// The verification in progress: the leaves up to here match the signed tree so far.
struct Check<'r> {
    reader: &'r LogReader,
    size: u64,
    edge: Edge,
    /// For each level, the hashes that were not compared with a tile yet. They belong to at most one tile.
    tiles: [Vec<u8>; LEVELS],
}

impl Check<'_> {
    /// Checks the leaves of a bundle against the tile of the lowest level, and the tiles that they complete.
    fn bundle(&mut self, index: u64, kept: Option<&Checkpoint>) -> Result<(), VerifyError> {
        let (first, count) = (index * WIDTH, width(self.size, 0, index));
        let bundle = self.reader.items(FileKind::Entries, index, count)?;
        let source = |source| Alteration::File { first, last: first + count - 1, source };
        let entries = tile::entries(&bundle).map_err(source)?;
        let tile = self.reader.items(FileKind::Hashes(0), index, count)?;
        for ((number, entry), hash) in (first..).zip(&entries).zip(tile::hashes(&tile).map_err(source)?) {
            if Hash::leaf(entry) != hash {
                return Err(Alteration::Leaf(number).into());
            }
            let tiles = &mut self.tiles;
            self.edge.push(hash, |level, hash| {
                if let Some(tile) = tiles.get_mut(level) {
                    tile.extend(hash.0);
                }
            });
            if kept.is_some_and(|kept| kept.size == number + 1 && kept.root != self.edge.root()) {
                return Err(Alteration::Rewritten(number + 1).into());
            }
            self.full_tiles()?;
        }
        for (index, entry) in (first..).zip(entries) {
            Leaf::parse(entry).map_err(|source| VerifyError::Leaf { index, source })?;
        }
        Ok(())
    }

    fn full_tiles(&mut self) -> Result<(), VerifyError> {
        let full = FileKind::Hashes(0).max_bytes();
        for level in 0..LEVELS {
            if self.tiles[level].len() == full {
                self.tile(level, tile::items(self.edge.size(), level) / WIDTH - 1, WIDTH)?;
            }
        }
        Ok(())
    }

    fn last_tiles(&mut self) -> Result<(), VerifyError> {
        for level in 0..LEVELS {
            let width = tile::partial_width(self.size, level);
            if width > 0 {
                self.tile(level, tile::items(self.size, level) / WIDTH, width)?;
            }
        }
        Ok(())
    }

    fn tile(&mut self, level: usize, index: u64, width: u64) -> Result<(), VerifyError> {
        let computed = std::mem::take(&mut self.tiles[level]);
        let found = self.reader.items(FileKind::Hashes(level), index, width)?;
        if found == computed { Ok(()) } else { Err(Alteration::Tile { level, index }.into()) }
    }
}
