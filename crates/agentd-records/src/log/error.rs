//! Errors of the audit log.

use crate::{checkpoint::InvalidCheckpoint, leaf::LeafError, note::NoteError, tile::TileError};
use agentd_disk::{DiskError, NotPrivate};
use std::path::PathBuf;

/// The reason why a log cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// A file operation failed.
    #[error("audit log: {0}")]
    Disk(#[from] DiskError),
    /// Other users may access the folder.
    #[error("audit log: {path:?}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: NotPrivate,
    },
    /// Another process writes the log.
    #[error("audit log: {0:?}: another process has opened this log to write — wait until the process has ended")]
    Busy(PathBuf),
    /// There is no log.
    #[error("audit log: {0:?} does not exist: nothing was recorded — record a run with `agentd run --receipt FILE`")]
    None(PathBuf),
    /// A file of the log is missing or too short.
    #[error("audit log: {0:?} is missing or too short — restore the log from a backup")]
    Missing(PathBuf),
    /// A file of the log is malformed.
    #[error("audit log: {path:?}: {source} — restore the log from a backup")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: TileError,
    },
    /// The checkpoint is not signed, or signed by another key.
    #[error("audit log: checkpoint: {0} — restore the log from a backup")]
    Note(#[from] NoteError),
    /// The checkpoint is malformed.
    #[error("audit log: {0} — restore the log from a backup")]
    Checkpoint(#[from] InvalidCheckpoint),
    /// The checkpoint belongs to another log.
    #[error("audit log: the checkpoint belongs to the log {0} — restore the log from a backup")]
    Origin(String),
    /// The checkpoint was signed for other leaves.
    #[error(
        "audit log: the checkpoint was signed for other leaves — run `agentd audit verify` for details, and restore a backup"
    )]
    Root,
    /// A leaf cannot be recorded.
    #[error("audit log: {0}")]
    Leaf(#[from] LeafError),
    /// There is no leaf with this index.
    #[error(
        "audit log: there is no leaf {index}: the log has {size} leaves — use a smaller number (`agentd audit tail` prints it)"
    )]
    NoLeaf {
        /// The index.
        index: u64,
        /// The size of the log.
        size: u64,
    },
    /// The log could not be written. No further leaf is accepted, because the state on disk is unknown until the log is opened
    /// again.
    #[error("audit log: the leaf was not recorded: {0} — remove the cause, then restart agentd")]
    Unwritten(String),
    /// The directory of an export exists.
    #[error("audit log: export: {0:?} exists — name a directory that does not exist")]
    Exists(PathBuf),
}
