//! Why the state of sandboxes could not be read or changed.

use crate::{layer_id::LayerId, name::Name};
use std::{io, path::PathBuf};

/// Why the state of sandboxes could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The directory cannot hold sandboxes.
    #[error("sandboxes {path:?}: {why}")]
    Place {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        why: &'static str,
    },
    /// A file could not be used.
    #[error("sandboxes: {doing} {path:?}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// There is a sandbox of that name.
    #[error("there is a sandbox {name} — take another name, or remove it")]
    Taken {
        /// The name.
        name: Name,
    },
    /// There is a snapshot of that name.
    #[error("sandbox {name} has a snapshot {snapshot} — take another name, or drop it")]
    SnapshotTaken {
        /// The sandbox.
        name: Name,
        /// The snapshot.
        snapshot: Name,
    },
    /// There is no such sandbox.
    #[error("there is no sandbox {name} — make it first")]
    NotFound {
        /// The name.
        name: Name,
    },
    /// The sandbox has no such snapshot.
    #[error("sandbox {name} has no snapshot {snapshot} — it has {}", .known.join(", "))]
    NoSnapshot {
        /// The sandbox.
        name: Name,
        /// The snapshot.
        snapshot: Name,
        /// Those that it has.
        known: Vec<String>,
    },
    /// What a sandbox was asked to be cannot be written down.
    #[error("sandbox {name} cannot be recorded: {source} — name only paths that are UTF-8 text")]
    Unwritable {
        /// The sandbox.
        name: Name,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A record is not as it was written. What it needs is not known, so nothing that it may need is taken away.
    #[error("sandbox {name} is damaged: its record {damage} — put the record back from a copy, or remove the sandbox")]
    Damaged {
        /// The sandbox.
        name: Name,
        /// What became of its record.
        #[source]
        damage: Damage,
    },
    /// Another process changed the sandbox while this one worked on it.
    #[error("sandbox {name} was changed by another process meanwhile — try again")]
    Changed {
        /// The sandbox.
        name: Name,
    },
    /// The file system of a sandbox with a limit could not be made or mounted.
    #[error("sandboxes: {0}")]
    Volume(#[from] agentd_core::LayerError),
    /// What a sandbox may keep is used up.
    #[error(
        "the disk of sandbox {name} is full: nothing was changed — remove files in it, or snapshots that are not needed \
         (`agentd sandbox snapshot --forget`), or go back to one"
    )]
    Full {
        /// The sandbox.
        name: Name,
    },
    /// Layers of too many sandboxes would be below one.
    #[error("{name} was forked from forks {deepest} deep, each with a disk of its own — fork one of those that it comes from")]
    TooDeep {
        /// The sandbox that was to be forked.
        name: Name,
        /// How many it may be.
        deepest: usize,
    },
    /// A layer of a sandbox is lost.
    #[error("layer {layer} of sandbox {name} is not there — restore a snapshot that does without it, or remove the sandbox")]
    Gone {
        /// The sandbox.
        name: Name,
        /// The layer.
        layer: LayerId,
    },
}

/// What became of a record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// Its file is gone.
    #[error("is not there")]
    Lost,
    /// It is that of another sandbox.
    #[error("is that of {0}")]
    Another(Name),
    /// It says nothing, or what only a later agentd understands.
    #[error("cannot be read: {0}")]
    Unreadable(#[source] serde_json::Error),
}

impl From<agentd_disk::DiskError> for StateError {
    fn from(error: agentd_disk::DiskError) -> Self {
        let agentd_disk::DiskError { doing, path, source } = error;
        Self::Io { doing, path, source }
    }
}

/// Names what was being done to which file when an I/O error came.
pub(crate) trait Doing<T> {
    fn doing(self, doing: &'static str, path: impl Into<PathBuf>) -> Result<T, StateError>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, doing: &'static str, path: impl Into<PathBuf>) -> Result<T, StateError> {
        self.map_err(|error| StateError::Io { doing, path: path.into(), source: error.into() })
    }
}
