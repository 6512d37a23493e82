//! Turns the current state of a sandbox into committed layers.

use super::directory::SandboxStore;
use crate::{
    error::StoreError,
    layer::{self, Draft, VolumeDir},
    layer_id::LayerId,
    mounts::Mounted,
    name::Name,
    record::Record,
    tree,
};
use agentd_disk::{Lock, Staging};
use std::path::PathBuf;

/// The method of saving the upper layer of a sandbox. An upper layer without changes is not saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveMode {
    /// Commits the upper layer and creates a new one for the sandbox. This is fast, but the sandbox must not be mounted.
    Commit,
    /// Commits a copy of the upper layer, which the sandbox keeps. This works while commands run in the sandbox. For a consistent
    /// copy, the caller must pause them during the copy. An unprivileged user can read a file or directory whose mode denies
    /// access only by changing that mode, which commands may see for a moment.
    Copy,
}

/// The result of the long part of saving a sandbox, which runs without the lock.
pub(super) struct PreparedCommit {
    /// The copy of the upper layer. Declared first so that it is dropped first: an unused copy is removed while the other fields
    /// still keep its location.
    copy: Option<Draft>,
    staging: Staging,
    _mounted: Mounted,
    /// The volume for the layers of the sandbox.
    volume_dir: Option<VolumeDir>,
    how: SaveMode,
    /// The upper layer of the sandbox when the preparation began.
    upper: LayerId,
}

impl PreparedCommit {
    pub(super) fn staging(&self) -> &Staging {
        &self.staging
    }
}

impl SandboxStore {
    /// Does the long part of saving a sandbox, without the lock.
    pub(super) fn prepare(&self, name: &Name, how: SaveMode) -> Result<PreparedCommit, StoreError> {
        let (record, staging, mounted) =
            self.pin(name, |record| record.lower.last().copied().into_iter().chain([record.upper]).collect())?;
        let upper = record.upper;
        let volume_dir = self.volume_dir_of(upper)?;
        let copy = match how {
            SaveMode::Copy if !self.is_unchanged(&record)? => {
                let draft = Draft::make(&staging, volume_dir.as_ref())?;
                tree::copy(&tree::Tree::open(&self.tree(upper))?, &draft.tree()?)?;
                Some(draft)
            }
            _ => None,
        };
        Ok(PreparedCommit { copy, staging, _mounted: mounted, volume_dir, how, upper })
    }

    /// Returns the current state of `record` as committed layers. `record` must have been read under this lock, and may get a new
    /// upper layer. In that case the caller must write `record` before anything that names these layers.
    pub(super) fn commit(
        &self,
        record: &mut Record,
        prepared: &mut PreparedCommit,
        lock: &Lock,
    ) -> Result<Vec<LayerId>, StoreError> {
        if record.upper != prepared.upper {
            return Err(StoreError::Changed { name: record.name.clone() });
        }
        match prepared.how {
            SaveMode::Copy => {
                let copy = prepared.copy.take().map(|copy| copy.adopt(&self.layers(), lock)).transpose()?;
                Ok(record.lower.iter().copied().chain(copy).collect())
            }
            SaveMode::Commit => {
                if !self.is_unchanged(record)? {
                    let upper =
                        Draft::make_over(&prepared.staging, prepared.volume_dir.as_ref(), Some(&self.tree(record.upper)))?;
                    record.lower.push(record.upper);
                    record.upper = upper.adopt(&self.layers(), lock)?;
                }
                Ok(record.lower.clone())
            }
        }
    }

    fn is_unchanged(&self, record: &Record) -> Result<bool, StoreError> {
        layer::is_unchanged(&self.layer(record.upper), self.highest(&record.lower).as_deref())
    }

    /// Returns the highest tree of a stack.
    pub(super) fn highest(&self, stack: &[LayerId]) -> Option<PathBuf> {
        stack.last().map(|layer| self.tree(*layer))
    }
}
