//! Creates several sandboxes atomically. They are built in staging, and one `rename` moves them all into the journal
//! (`promised/`), which commits their creation. The creator then moves them to their places before it releases the lock. If the
//! creator dies in the meantime, the next process to take the lock completes the move.

use super::directory::SandboxStore;
use crate::{
    error::StoreError,
    record::{self, Record, exists},
};
use agentd_disk::{FileContext as _, Lock, Staging, entries, flush_directory, make_folder};
use std::{fs, path::PathBuf};

impl SandboxStore {
    /// Creates these sandboxes together. Their names must be free and their layers must exist.
    pub(super) fn create_together(&self, records: &[Record], staging: &Staging, lock: &Lock) -> Result<(), StoreError> {
        self.flush_layers()?;
        let made = staging.path().join("made");
        make_folder(&made)?;
        for record in records {
            record::make_directory(&made.join(&record.name), record)?;
        }
        if let [record] = records {
            let place = self.sandbox(&record.name);
            fs::rename(made.join(&record.name), &place).during("rename to", place)?;
            return Ok(flush_directory(&self.named_directory())?);
        }
        flush_directory(&made)?;
        fs::rename(&made, self.journal()).during("rename to", self.journal())?;
        flush_directory(&self.root)?;
        self.replay_journal(lock)
    }

    /// Moves each sandbox in the journal to the directory of named sandboxes.
    pub(super) fn replay_journal(&self, _lock: &Lock) -> Result<(), StoreError> {
        if !exists(&self.journal())? {
            return Ok(());
        }
        for sandbox in entries(&self.journal())? {
            let place = self.named_directory().join(sandbox.file_name().unwrap_or_default());
            fs::rename(&sandbox, &place).during("rename to", place)?;
        }
        flush_directory(&self.named_directory())?;
        Ok(fs::remove_dir(self.journal()).during("remove", self.journal())?)
    }

    /// Completes an unfinished journal. Must precede reading without the lock.
    pub(super) fn wait_for_journal(&self) -> Result<(), StoreError> {
        if exists(&self.journal())? { self.lock().map(drop) } else { Ok(()) }
    }

    fn journal(&self) -> PathBuf {
        self.root.join("promised")
    }
}
