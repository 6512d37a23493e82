//! Receipts: a signed statement about one intent, in a DSSE envelope with an in-toto statement.

mod envelope;
mod executed;
mod words;

pub use executed::{
    USAGE_NAMES, end_reason, recorded_controls, recorded_evidence, recorded_limits, recorded_outcome, recorded_usage,
    recorded_wall,
};

use crate::{
    digest::ContentDigest,
    json::{self, JsonError},
    key_ring::{KeyNotInUse, KeyRing},
    label::Label,
    note::{KeyId, Signer},
    time::Timestamp,
};
use envelope::Envelope;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The maximum length of a receipt in bytes.
pub const MAX_RECEIPT: usize = 4 << 20;

/// The type of an in-toto statement.
const STATEMENT: &str = "https://in-toto.io/Statement/v1";

/// The type of agentd's predicate: another form of [`Receipt`] needs another version.
pub const PREDICATE: &str = "urn:agentd:receipt:v1";

/// The maximum number of seconds by which the clock of the machine that signed may be ahead.
const MAX_CLOCK_SKEW: u64 = 300;

/// The statement of agentd about one intent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Receipt {
    /// The version of agentd.
    pub version: Label,
    /// The user or service that requested the intent.
    pub principal: Label,
    /// The capability that was used.
    pub capability: Label,
    /// The digest of the whole intent.
    pub intent: ContentDigest,
    /// The decision about the intent.
    pub decision: ReceiptDecision,
    /// The time at which the intent arrived.
    pub started: Timestamp,
    /// The time at which the intent ended.
    pub finished: Timestamp,
    /// The backend of the sandbox; `None` if nothing was executed.
    pub backend: Option<Label>,
    /// True if the backend was attacked on this machine before it was chosen. False if it was selected by name only.
    pub probed: bool,
    /// The controls of the sandbox.
    pub controls: Vec<RecordedControl>,
    /// The attacks of the probe, before the backend was chosen. Empty if the backend was not probed.
    pub evidence: Vec<RecordedEvidence>,
    /// The limits, by name and unit.
    pub limits: BTreeMap<Label, u64>,
    /// The usage, by name and unit.
    pub usage: BTreeMap<Label, u64>,
    /// The destinations that the sandbox tried to reach; `None` if no gateway observed the network.
    pub egress: Option<RecordedEgress>,
    /// The outcome of the intent.
    pub outcome: RecordedOutcome,
}

/// The decision about an intent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReceiptDecision {
    /// True if the intent was allowed.
    pub allowed: bool,
    /// The policies that determined the decision.
    pub policies: Vec<Label>,
}

/// A control of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecordedControl {
    /// The name of the control.
    pub control: Label,
    /// Whether the control was applied.
    pub status: RecordedStatus,
    /// The applied or missing part.
    pub detail: String,
}

/// Whether a control was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordedStatus {
    /// The control was applied.
    Enforced,
    /// A part of the control was applied.
    Partial,
    /// The control was not applied.
    Missing,
}

/// An attack and its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecordedEvidence {
    /// The claim that the attack tests.
    pub claim: Label,
    /// The name of the attack.
    pub check: Label,
    /// True if the attack was tried and failed.
    pub held: bool,
}

/// The destinations that a sandbox tried to reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecordedEgress {
    /// The flows, by destination and decision.
    pub flows: Vec<RecordedFlow>,
    /// The number of flows that are not among `flows`.
    pub omitted: u64,
}

/// The flows to one destination with one decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecordedFlow {
    /// The destination.
    pub to: String,
    /// True if the flows were allowed.
    pub allowed: bool,
    /// The grant that allowed them, or the reason for the refusal.
    pub reason: Option<String>,
    /// The number of flows.
    pub flows: u64,
    /// Bytes from the sandbox.
    pub sent: u64,
    /// Bytes to the sandbox.
    pub received: u64,
}

/// The outcome of an intent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecordedOutcome {
    /// The reason for the end.
    pub reason: Label,
    /// The exit code of the command.
    pub exit_code: Option<i32>,
    /// The number of the signal that ended the command.
    pub signal: Option<i32>,
}

/// An output or artifact of an intent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// The name.
    pub name: String,
    /// The digest.
    pub digest: SubjectDigest,
}

/// The digests of a subject, by algorithm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectDigest {
    /// SHA-256.
    pub sha256: ContentDigest,
}

impl Subject {
    /// Returns the subject with this name and digest.
    pub fn new(name: &str, digest: ContentDigest) -> Self {
        Self { name: name.to_owned(), digest: SubjectDigest { sha256: digest } }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    predicate_type: String,
    predicate: Receipt,
}

/// The types of a statement. The form of its other members depends on them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Types {
    #[serde(rename = "_type")]
    kind: String,
    predicate_type: String,
}

/// The reason why a receipt is not accepted, or cannot be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// The receipt is too long.
    #[error("receipt: longer than 4 MiB — name a file that `agentd run --receipt` wrote")]
    TooLong,
    /// The envelope is not JSON, or has other members.
    #[error("receipt: envelope: {0} — name a file that `agentd run --receipt` wrote")]
    Envelope(JsonError),
    /// The envelope does not contain a statement.
    #[error("receipt: envelope: its content has the type `{0}` instead of an in-toto statement — name a receipt")]
    PayloadType(String),
    /// The text is not the canonical base64 form of any bytes.
    #[error("receipt: envelope: {0} is not canonical base64: the receipt was changed — do not trust it")]
    Base64(&'static str),
    /// The envelope does not have exactly one signature.
    #[error("receipt: envelope: {0} signatures instead of one — do not trust this receipt")]
    Signatures(usize),
    /// The key is unknown.
    #[error(
        "receipt: signed with the unknown key {0:?} — with --key, name a file with the public keys of the machine that signed"
    )]
    UnknownKey(String),
    /// The signature is invalid.
    #[error("receipt: the signature of the key {0} is invalid: the receipt was changed — do not trust it")]
    Signature(KeyId),
    /// The key cannot have signed at this time.
    #[error("receipt: its time is {time}, but {source} — do not trust it")]
    Key {
        /// The time of the receipt.
        time: Timestamp,
        /// The cause.
        source: KeyNotInUse,
    },
    /// The statement has an unknown type.
    #[error("receipt: its statement has the unknown type `{0}` — use the version of agentd that made it, or a newer one")]
    Type(String),
    /// The statement is malformed.
    #[error("receipt: statement: {0} — do not trust it")]
    Statement(JsonError),
    /// Two parts of the statement contradict each other.
    #[error("receipt: its statement is contradictory: {0} — do not trust it")]
    Contradiction(&'static str),
    /// The receipt is from the future.
    #[error("receipt: its time {time} is in the future — check the clocks of both machines")]
    Future {
        /// The time of the receipt.
        time: Timestamp,
    },
}

/// A receipt that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedReceipt {
    /// The statement.
    pub receipt: Receipt,
    /// The outputs and artifacts.
    pub subjects: Vec<Subject>,
    /// The key that has signed.
    pub signed_by: KeyId,
}

/// Signs a receipt. Returns the text of the envelope.
///
/// # Errors
/// [`ReceiptError::Contradiction`] or [`ReceiptError::TooLong`] for a receipt that [`verify`] refuses, and
/// [`ReceiptError::Statement`] for a number without a canonical form.
pub fn sign(receipt: Receipt, subjects: Vec<Subject>, signer: &Signer) -> Result<String, ReceiptError> {
    check(&receipt, &subjects)?;
    let (kind, predicate_type) = (STATEMENT.to_owned(), PREDICATE.to_owned());
    let statement = Statement { kind, subject: subjects, predicate_type, predicate: receipt };
    let payload = json::canonical(&statement).map_err(ReceiptError::Statement)?;
    let envelope = Envelope::sign(payload.as_bytes(), signer).to_text()?;
    if envelope.len() > MAX_RECEIPT { Err(ReceiptError::TooLong) } else { Ok(envelope) }
}

/// Verifies a receipt with the public keys of the machine that signed it.
///
/// # Errors
/// [`ReceiptError`] if any check fails.
pub fn verify(bytes: &[u8], ring: &KeyRing, now: Timestamp) -> Result<VerifiedReceipt, ReceiptError> {
    if bytes.len() > MAX_RECEIPT {
        return Err(ReceiptError::TooLong);
    }
    let (payload, key) = Envelope::parse(bytes)?.verify(ring)?;
    let types: Types = json::parse(&payload).map_err(ReceiptError::Statement)?;
    if let Some(unknown) =
        [(types.kind, STATEMENT), (types.predicate_type, PREDICATE)].into_iter().find(|(is, known)| is != known)
    {
        return Err(ReceiptError::Type(unknown.0));
    }
    let statement: Statement = json::parse_canonical(&payload).map_err(ReceiptError::Statement)?;
    let Statement { subject: subjects, predicate: receipt, .. } = statement;
    check(&receipt, &subjects)?;
    let time = receipt.finished;
    key.check_at(time).map_err(|source| ReceiptError::Key { time, source })?;
    if time > now.plus_seconds(MAX_CLOCK_SKEW) {
        return Err(ReceiptError::Future { time });
    }
    Ok(VerifiedReceipt { receipt, subjects, signed_by: key.verifier.key_id().clone() })
}

/// Refuses contradictions that no receipt of agentd contains.
fn check(receipt: &Receipt, subjects: &[Subject]) -> Result<(), ReceiptError> {
    let names: BTreeSet<_> = subjects.iter().map(|subject| &subject.name).collect();
    let contradictions = [
        (subjects.is_empty(), "no output is named"),
        (names.len() < subjects.len(), "two outputs have the same name"),
        (receipt.finished < receipt.started, "the intent ended before it started"),
        (!receipt.decision.allowed && receipt.backend.is_some(), "the intent was denied and executed"),
        (receipt.backend.is_none() && receipt.probed, "nothing was executed and a backend was probed"),
        (!receipt.probed && !receipt.evidence.is_empty(), "the backend was not probed and attacks were tried"),
        (receipt.backend.is_none() && !receipt.controls.is_empty(), "nothing was executed and controls were applied"),
    ];
    match contradictions.into_iter().find(|(found, _)| *found) {
        Some((_, text)) => Err(ReceiptError::Contradiction(text)),
        None => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests;
