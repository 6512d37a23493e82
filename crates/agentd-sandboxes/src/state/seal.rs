//! How what a sandbox is now becomes layers that do not change any more.

use super::State;
use crate::{
    error::StateError,
    layer::{self, Draft, Home},
    layer_id::LayerId,
    mounts::Mounted,
    name::Name,
    record::Record,
    tree,
};
use agentd_disk::{Lock, Staging};
use std::path::PathBuf;

/// How the top of a sandbox is saved. A top in which nothing is changed needs no saving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It becomes sealed, and the sandbox gets a new one. In no time; but nobody may have it mounted.
    Seal,
    /// A copy of it becomes sealed, and the sandbox keeps it. For a sandbox in which commands run; that the copy is of one moment is
    /// for the caller to see to, who can stop them meanwhile. A user who is not root can read a file or directory that its mode closes
    /// only by changing that mode: commands may see it, for a moment.
    Copy,
}

/// A sandbox that is about to be saved: what took long is done.
pub(super) struct Prepared {
    /// Its copy; first, because one that is not used is removed from where the others keep it.
    copy: Option<Draft>,
    staging: Staging,
    _mounted: Mounted,
    /// The volume for its layers.
    home: Option<Home>,
    how: How,
    /// Whose top is saved, and what it was when this began.
    top: LayerId,
}

impl Prepared {
    pub(super) fn staging(&self) -> &Staging {
        &self.staging
    }
}

impl State {
    /// Does what takes long, without the lock.
    pub(super) fn prepare(&self, name: &Name, how: How) -> Result<Prepared, StateError> {
        let (record, staging, mounted) =
            self.pin(name, |record| record.sealed.last().copied().into_iter().chain([record.top]).collect())?;
        let top = record.top;
        let home = self.home_of(top)?;
        let copy = match how {
            How::Copy if !self.is_unchanged(&record)? => {
                let draft = Draft::make(&staging, home.as_ref())?;
                tree::copy(&tree::Tree::open(&self.tree(top))?, &draft.tree()?)?;
                Some(draft)
            }
            _ => None,
        };
        Ok(Prepared { copy, staging, _mounted: mounted, home, how, top })
    }

    /// What `record`, which was read under this lock, is now, as layers that do not change any more. The record may get another top, and
    /// is then to be written before anything that names these layers.
    pub(super) fn seal(&self, record: &mut Record, prepared: &mut Prepared, lock: &Lock) -> Result<Vec<LayerId>, StateError> {
        if record.top != prepared.top {
            return Err(StateError::Changed { name: record.name.clone() });
        }
        match prepared.how {
            How::Copy => {
                let copy = prepared.copy.take().map(|copy| copy.adopt(&self.layers(), lock)).transpose()?;
                Ok(record.sealed.iter().copied().chain(copy).collect())
            }
            How::Seal => {
                if !self.is_unchanged(record)? {
                    let top = Draft::make_over(&prepared.staging, prepared.home.as_ref(), Some(&self.tree(record.top)))?;
                    record.sealed.push(record.top);
                    record.top = top.adopt(&self.layers(), lock)?;
                }
                Ok(record.sealed.clone())
            }
        }
    }

    fn is_unchanged(&self, record: &Record) -> Result<bool, StateError> {
        layer::is_unchanged(&self.layer(record.top), self.highest(&record.sealed).as_deref())
    }

    /// The highest tree of a stack.
    pub(super) fn highest(&self, stack: &[LayerId]) -> Option<PathBuf> {
        stack.last().map(|layer| self.tree(*layer))
    }
}
