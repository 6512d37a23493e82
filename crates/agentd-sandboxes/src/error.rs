//! Errors of reading or changing the state of sandboxes.

use crate::{layer_id::LayerId, name::Name};
use std::{io, path::PathBuf};

/// The reason why the state of sandboxes could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The directory is not suitable for the state of sandboxes.
    #[error("open the sandbox store: {path:?}: {why}")]
    Place {
        /// The directory.
        path: PathBuf,
        /// The problem and its remedy.
        why: &'static str,
    },
    /// A file operation failed.
    #[error("{operation} {path:?}: {source}")]
    Io {
        /// The operation.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A sandbox of that name exists.
    #[error("create sandbox {name}: a sandbox of this name exists — use another name, or remove that sandbox")]
    Taken {
        /// The name.
        name: Name,
    },
    /// A snapshot of that name exists.
    #[error(
        "create snapshot {snapshot} of sandbox {name}: a snapshot of this name exists — use another name, or remove that snapshot"
    )]
    SnapshotTaken {
        /// The sandbox.
        name: Name,
        /// The snapshot.
        snapshot: Name,
    },
    /// No sandbox of that name exists.
    #[error("find sandbox {name}: no sandbox of this name exists — create the sandbox, or list all with `agentd sandbox ls`")]
    NotFound {
        /// The name.
        name: Name,
    },
    /// The sandbox has no snapshot of that name.
    #[error("sandbox {name} has no snapshot {snapshot} — {}", existing(.name, .known))]
    NoSnapshot {
        /// The sandbox.
        name: Name,
        /// The snapshot.
        snapshot: Name,
        /// The names of its snapshots.
        known: Vec<String>,
    },
    /// The configuration of a sandbox cannot be serialised.
    #[error("write the record of sandbox {name}: {source} — use only paths that are valid UTF-8")]
    Unwritable {
        /// The sandbox.
        name: Name,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// A record is missing or changed. Its needs are unknown, so nothing that it may need is removed.
    #[error(
        "sandbox {name} is damaged: its record.json {damage} — restore that file from a backup, or run `agentd sandbox rm {name}`"
    )]
    Damaged {
        /// The sandbox.
        name: Name,
        /// The kind of damage.
        #[source]
        damage: Damage,
    },
    /// Another process changed the sandbox during the operation.
    #[error("sandbox {name} was changed by another process during this operation — try again")]
    Changed {
        /// The sandbox.
        name: Name,
    },
    /// The volume of a sandbox with a disk limit could not be created or mounted.
    #[error(transparent)]
    Volume(#[from] agentd_core::ControlError),
    /// The disk of a sandbox is full, up to its limit.
    #[error(
        "the disk of sandbox {name} is full; nothing was changed — remove files in the sandbox, delete a snapshot \
         (`agentd sandbox snapshot {name} SNAPSHOT --delete`), or run `agentd sandbox restore {name} SNAPSHOT`"
    )]
    Full {
        /// The sandbox.
        name: Name,
    },
    /// A fork would stack layers from too many volumes.
    #[error(
        "fork sandbox {name}: its layers are in {max} volumes, the maximum — fork one of the sandboxes that it was forked from"
    )]
    TooDeep {
        /// The sandbox to be forked.
        name: Name,
        /// The maximum number of volumes.
        max: usize,
    },
    /// A layer of a sandbox is missing.
    #[error(
        "layer {layer} of sandbox {name} is missing — restore a snapshot that does not need this layer, or run \
         `agentd sandbox rm {name}`"
    )]
    Gone {
        /// The sandbox.
        name: Name,
        /// The layer.
        layer: LayerId,
    },
}

/// Returns what to do if a snapshot does not exist.
fn existing(name: &Name, known: &[String]) -> String {
    match known {
        [] => format!("the sandbox has no snapshots: save one with `agentd sandbox snapshot {name} SNAPSHOT`"),
        known => format!("use one of its snapshots: {}", known.join(", ")),
    }
}

/// The kind of damage to a record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The file is missing.
    #[error("is missing")]
    Lost,
    /// The record belongs to another sandbox.
    #[error("belongs to sandbox {0}")]
    Another(Name),
    /// The record cannot be parsed, or has a version that only a later agentd supports.
    #[error("cannot be parsed: {0}")]
    Unreadable(#[source] serde_json::Error),
}

impl From<agentd_disk::DiskError> for StoreError {
    fn from(error: agentd_disk::DiskError) -> Self {
        let agentd_disk::DiskError { operation, path, source } = error;
        Self::Io { operation, path, source }
    }
}
