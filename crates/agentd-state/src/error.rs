//! The error of the store.

use crate::{api_key_id::ApiKeyId, intent_id::IntentId};
use agentd_disk::{DiskError, NotPrivate};
use rusqlite::ErrorCode;
use std::path::PathBuf;

/// The reason why the store cannot be used, or why it refuses a request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The folder is not private to this user.
    #[error("state: {path:?}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: NotPrivate,
    },
    /// A file of the folder is not private to this user.
    #[error("state: {path:?}: {problem}")]
    File {
        /// The file.
        path: PathBuf,
        /// The problem and the remedy.
        problem: &'static str,
    },
    /// A file operation failed.
    #[error("state: {0}")]
    Disk(#[from] DiskError),
    /// A newer version of agentd has written the store.
    #[error(
        "state: {path:?} has schema version {found}, and this agentd knows versions up to {known} — use the version of agentd that \
         wrote the store, or a newer one"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// The version of the store.
        found: i64,
        /// The newest version that this program knows.
        known: i64,
    },
    /// The database is that of another program.
    #[error("state: {0:?} is not a store of agentd — move the file to another place")]
    Foreign(PathBuf),
    /// The file system lacks shared memory or locks.
    #[error("state: {path:?}: the journal mode is {mode:?} instead of WAL — set AGENTD_DATA_DIR to a local file system")]
    NoWal {
        /// The database.
        path: PathBuf,
        /// The journal mode.
        mode: String,
    },
    /// The store is not as it was written.
    #[error("state: the store is damaged: {0} — stop agentd and restore the folder `state` from a backup")]
    Damaged(String),
    /// Transactions that were acknowledged are missing.
    #[error(
        "state: {path:?} lacks {missing} acknowledged transactions — restore the folder from a backup, or delete the file \
         {counter:?} to continue without these transactions"
    )]
    Lost {
        /// The database.
        path: PathBuf,
        /// The number of missing transactions.
        missing: u64,
        /// The file with the number of acknowledged transactions.
        counter: PathBuf,
    },
    /// Another process kept the store locked.
    #[error("state: another process kept the store locked for {0} seconds — end the process, or try again")]
    Busy(u64),
    /// The disk is full. Nothing was recorded.
    #[error("state: nothing was recorded: no space left on the disk — free space, then try again")]
    Full,
    /// The transaction failed. Nothing was recorded.
    #[error("state: nothing was recorded: {0} — `agentd state check` examines the store")]
    Sqlite(#[source] rusqlite::Error),
    /// The database could not be written or flushed. No further request is accepted, because the state on disk is unknown until
    /// the store is opened again.
    #[error("state: the store could not be written: {0} — remove the cause, then restart agentd")]
    Unwritten(String),
    /// There is no intent with this identifier, or it is no longer kept.
    #[error("state: there is no intent {0} — it may have been removed after the time that outcomes are kept")]
    UnknownIntent(IntentId),
    /// The intent has ended, or is executed by another process.
    #[error("state: the intent {0} has ended, or another process executes it — its outcome is not changed")]
    NotInFlight(IntentId),
    /// The outcome is too long.
    #[error("state: the outcome has {length} bytes, and the limit is {limit} — record a digest of the output instead")]
    OutcomeTooLong {
        /// The length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The text of an approval is too long.
    #[error(
        "state: the text for the approver has {length} bytes, and the limit is {limit} — shorten the parameters of the request"
    )]
    TextTooLong {
        /// The length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The intent has no approval.
    #[error("state: the intent {0} waits for no approval — `agentd approvals` lists those that do")]
    NoApproval(IntentId),
    /// The intent has an approval already.
    #[error("state: an approval of the intent {0} was requested before — an intent has one approval")]
    ApprovalExists(IntentId),
    /// The approval was decided, and a decision is final.
    #[error("state: the intent {0} was approved or denied before — a decision is final")]
    Decided(IntentId),
    /// The approval has expired.
    #[error("state: the approval of the intent {0} has expired — send the request again")]
    Expired(IntentId),
    /// There is no such API key.
    #[error("state: there is no API key {0} — `agentd key ls` lists the keys")]
    UnknownApiKey(ApiKeyId),
}

impl StateError {
    /// Returns the error for another caller whose request was in the same transaction.
    pub(crate) fn repeated(&self) -> Self {
        match self {
            Self::Busy(seconds) => Self::Busy(*seconds),
            Self::Full => Self::Full,
            Self::Damaged(cause) => Self::Damaged(cause.clone()),
            Self::Unwritten(cause) => Self::Unwritten(cause.clone()),
            other => Self::Unwritten(other.to_string()),
        }
    }

    /// Returns the error of a process whose thread for the store has ended.
    pub(crate) fn ended() -> Self {
        Self::Unwritten("the thread of the store has ended".to_owned())
    }
}

/// The time that SQLite waits for locks of other processes, in seconds.
pub(crate) const BUSY_SECONDS: u64 = 10;

impl From<rusqlite::Error> for StateError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error as E;
        let damaged = matches!(
            error,
            E::InvalidColumnType(..) | E::FromSqlConversionFailure(..) | E::IntegralValueOutOfRange(..) | E::Utf8Error(..)
        );
        match error.sqlite_error_code() {
            _ if damaged => Self::Damaged(error.to_string()),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy(BUSY_SECONDS),
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(error.to_string()),
            Some(ErrorCode::SystemIoFailure) => Self::Unwritten(error.to_string()),
            _ => Self::Sqlite(error),
        }
    }
}
