//! Errors of the audit log.

use crate::{checkpoint::NoCheckpoint, leaf::LeafError, note::NoteError, tile::TileError};
use agentd_disk::{DiskError, NotPrivate};
use std::path::PathBuf;

/// The reason why a log cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// A file operation failed.
    #[error("audit log: {0}")]
    Disk(#[from] DiskError),
    /// Others may access the folder.
    #[error("audit log: {path:?}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: NotPrivate,
    },
    /// Another process writes the log.
    #[error("audit log: {0:?}: another process writes this log — wait until it has ended")]
    Busy(PathBuf),
    /// There is no log.
    #[error("audit log: {0:?} does not exist: nothing was recorded on this machine")]
    None(PathBuf),
    /// A file of the log is missing or too short.
    #[error("audit log: {0:?} is missing or too short — restore the log from a backup")]
    Missing(PathBuf),
    /// A file of the log has contents that no log has.
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
    /// The checkpoint has another form.
    #[error("audit log: {0} — restore the log from a backup")]
    Checkpoint(#[from] NoCheckpoint),
    /// The checkpoint is that of another log.
    #[error("audit log: the checkpoint is that of the log {0} — restore the log from a backup")]
    Origin(String),
    /// The leaves are not those of the checkpoint.
    #[error("audit log: the last leaves are not those of the checkpoint — `agentd audit verify` shows more; restore a backup")]
    Root,
    /// A leaf cannot be recorded.
    #[error("audit log: {0}")]
    Leaf(#[from] LeafError),
    /// There is no leaf with this index.
    #[error("audit log: there is no leaf {index}: the log has {size} leaves")]
    NoLeaf {
        /// The index.
        index: u64,
        /// The size of the log.
        size: u64,
    },
    /// The log could not be written. Nothing more is accepted, because the state on disk is unknown until the log is opened
    /// again.
    #[error("audit log: the leaf was not recorded: {0} — remove the cause, then restart agentd")]
    Unwritten(String),
    /// The directory of an export exists.
    #[error("audit log: export: {0:?} exists — name a directory that does not exist")]
    Exists(PathBuf),
}
