//! Proofs in the text forms that other programs read.

use super::{error::LogError, read::LogReader};
use crate::{
    checkpoint::Checkpoint,
    merkle::Hash,
    note::SignedNote,
    proof::{self, is_consistent, is_included},
};
use std::{fmt, str::FromStr};

/// The first line of an inclusion proof.
const INCLUSION: &str = "c2sp.org/tlog-proof@v1";

/// The maximum number of hashes in a proof: a tree of 2^64 leaves has 64 levels, and a consistency proof has one hash more.
const MAX_HASHES: usize = 65;

/// A proof that a log contains a leaf, in the form of <https://c2sp.org/tlog-proof>.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InclusionProof {
    /// The index of the leaf.
    pub index: u64,
    /// The audit path.
    pub path: Vec<Hash>,
    /// The checkpoint of the log.
    pub checkpoint: SignedNote,
}

/// A proof that a log continues an earlier state of itself, in the form that witnesses accept
/// (<https://c2sp.org/tlog-witness>).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistencyProof {
    /// The size of the earlier state.
    pub old: u64,
    /// The proof.
    pub path: Vec<Hash>,
    /// The checkpoint of the later state.
    pub checkpoint: SignedNote,
}

/// The text is not a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a proof: expected the number of a leaf or of a size, hashes, an empty line and a checkpoint")]
pub struct InvalidProof;

/// Proves that the log contains the leaf `index` at this checkpoint, which was verified. Returns the proof and the leaf.
///
/// # Errors
/// [`LogError::NoLeaf`], and the errors of a damaged log.
pub fn prove_inclusion(
    reader: &LogReader,
    (note, checkpoint): (&SignedNote, &Checkpoint),
    index: u64,
) -> Result<(InclusionProof, Vec<u8>), LogError> {
    let size = checkpoint.size;
    let leaf = reader.leaf(size, index)?;
    let path = proof::inclusion(index, size, &mut |level, first, count| reader.hashes(size, level, first, count))?;
    if !is_included(Hash::leaf(&leaf), index, (size, checkpoint.root), &path) {
        return Err(LogError::Root);
    }
    Ok((InclusionProof { index, path, checkpoint: note.clone() }, leaf))
}

/// Proves that the log at this checkpoint, which was verified, continues the state `old`: its size and root.
///
/// # Errors
/// [`LogError::Root`] if it does not, and the errors of a damaged log.
pub fn prove_consistency(
    reader: &LogReader,
    (note, checkpoint): (&SignedNote, &Checkpoint),
    old: (u64, Hash),
) -> Result<ConsistencyProof, LogError> {
    let size = checkpoint.size;
    let path = proof::consistency(old.0, size, &mut |level, first, count| reader.hashes(size, level, first, count))?;
    if !is_consistent(old, (size, checkpoint.root), &path) {
        return Err(LogError::Root);
    }
    Ok(ConsistencyProof { old: old.0, path, checkpoint: note.clone() })
}

impl fmt::Display for InclusionProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{INCLUSION}\nindex {}", self.index)?;
        write_rest(f, &self.path, &self.checkpoint)
    }
}

impl fmt::Display for ConsistencyProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old)?;
        write_rest(f, &self.path, &self.checkpoint)
    }
}

fn write_rest(f: &mut fmt::Formatter<'_>, path: &[Hash], checkpoint: &SignedNote) -> fmt::Result {
    path.iter().try_for_each(|hash| writeln!(f, "{hash}"))?;
    write!(f, "\n{checkpoint}")
}

impl FromStr for InclusionProof {
    type Err = InvalidProof;

    fn from_str(text: &str) -> Result<Self, InvalidProof> {
        let rest = text.strip_prefix(INCLUSION).and_then(|rest| rest.strip_prefix("\nindex ")).ok_or(InvalidProof)?;
        let (index, path, checkpoint) = parse_rest(rest)?;
        Ok(Self { index, path, checkpoint })
    }
}

impl FromStr for ConsistencyProof {
    type Err = InvalidProof;

    fn from_str(text: &str) -> Result<Self, InvalidProof> {
        let (old, path, checkpoint) = parse_rest(text.strip_prefix("old ").ok_or(InvalidProof)?)?;
        Ok(Self { old, path, checkpoint })
    }
}

fn parse_rest(text: &str) -> Result<(u64, Vec<Hash>, SignedNote), InvalidProof> {
    let (head, note) = text.split_once("\n\n").ok_or(InvalidProof)?;
    let mut lines = head.split('\n');
    let first = lines.next().unwrap_or_default();
    let number: u64 = first.parse().map_err(|_| InvalidProof)?;
    let path = lines.map(|line| Hash::parse(line).ok_or(InvalidProof)).collect::<Result<Vec<_>, _>>()?;
    let note = SignedNote::parse(note.as_bytes()).map_err(|_| InvalidProof)?;
    if number.to_string() == first && path.len() <= MAX_HASHES { Ok((number, path, note)) } else { Err(InvalidProof) }
}
