//! Signs records of agentd's work, so that other people can check them later:
//!
//! - the [`AuditLog`]: an append-only transparency log with a leaf for each event;
//! - [`receipt`]s: signed statements, each about one intent;
//! - the [`Keys`] that sign both, and the [`KeyRing`] of public keys that verifies both.
//!
//! The crate writes only below the folder of its [`Records`]. It starts no process and makes no decision about intents.

mod base64;
mod checkpoint;
mod digest;
pub mod fuzz;
pub mod json;
mod kept;
mod key_ring;
mod keys;
mod label;
mod leaf;
mod log;
mod merkle;
mod note;
mod proof;
mod random_id;
pub mod receipt;
mod records;
mod tile;
mod time;

pub use checkpoint::{Checkpoint, InvalidCheckpoint};
pub use digest::{ContentDigest, ContentHasher, InvalidDigest};
pub use json::{JsonError, MAX_INTEGER};
pub use kept::KeepError;
pub use key_ring::{KeyNotInUse, KeyRing, MAX_RING, PublicKey, RingError};
pub use keys::{KeyError, Keys};
pub use label::{InvalidLabel, Label};
pub use leaf::{AuditEvent, Leaf, LeafError};
pub use log::{
    Alteration, AuditLog, ConsistencyProof, InclusionProof, InvalidProof, LogError, LogReader, Verified, VerifyError,
    prove_consistency, prove_inclusion, verify,
};
pub use merkle::Hash;
pub use note::{KeyId, MAX_NOTE, NoteError, Signatures, SignedNote, Signer, VerifierKey};
pub use proof::{is_consistent, is_included};
pub use random_id::random_id;
pub use records::{Recorder, Records, RecordsError};
pub use tile::TileError;
pub use time::{InvalidTimestamp, Timestamp};
