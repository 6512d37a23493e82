//! What agentd records so that others can check it later:
//!
//! - the [`AuditLog`]: an append-only transparency log with a leaf for each event;
//! - [`receipt`]s: a signed statement about each intent;
//! - the [`Keys`] that sign both, and the [`KeyRing`] of public keys that verifies both.
//!
//! The crate writes only below the folder of its [`Records`]. It starts nothing, and decides nothing about intents.

mod checkpoint;
mod digest;
pub mod fuzz;
mod json;
mod key_ring;
mod keys;
mod leaf;
mod log;
mod merkle;
mod note;
mod proof;
pub mod receipt;
mod records;
mod tile;
mod time;

pub use checkpoint::{Checkpoint, NoCheckpoint};
pub use digest::{ContentDigest, Digesting, NoDigest};
pub use json::{JsonError, canonical};
pub use key_ring::{KeyRing, MAX_RING, NotValid, PublicKey, RingError};
pub use keys::{KeyError, Keys};
pub use leaf::{AuditEvent, Label, Leaf, LeafError, NoLabel};
pub use log::{
    Alteration, AuditLog, ConsistencyProof, InclusionProof, LogError, LogReader, NoProof, Verified, VerifyError,
    prove_consistency, prove_inclusion, verify,
};
pub use merkle::Hash;
pub use note::{KeyId, MAX_NOTE, NoteError, Signatures, SignedNote, Signer, VerifierKey};
pub use proof::{is_consistent, is_included};
pub use records::{Records, RotateError};
pub use tile::TileError;
pub use time::{NoTimestamp, Timestamp};
