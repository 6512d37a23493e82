//! The error of the engine.

use agentd_records::{InvalidLabel, LeafError, LogError, RecordsError, VerifyError, json::JsonError, receipt::ReceiptError};
use agentd_state::StateError;

/// The reason why the engine cannot admit or record an intent. The intent is then not executed, unless the message says
/// otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The store of intents cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// Keys or audit log cannot be used.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The audit log cannot be written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The audit log cannot be read.
    #[error("find intents that were interrupted: {0}")]
    Read(#[from] VerifyError),
    /// A leaf of the audit log cannot be read.
    #[error("find intents that were interrupted: {0}")]
    Leaf(#[from] LeafError),
    /// The receipt cannot be signed.
    #[error(transparent)]
    Receipt(#[from] ReceiptError),
    /// A part of the intent has no JSON form.
    #[error("describe the intent: {0}")]
    Json(#[from] JsonError),
    /// The name of a principal or transport cannot be recorded.
    #[error("record the intent: {0} — use a shorter name")]
    Label(#[from] InvalidLabel),
    /// The kernel returns no random numbers.
    #[error("record the intent: random bytes: {0} — check that getrandom(2) works")]
    Random(std::io::Error),
}
