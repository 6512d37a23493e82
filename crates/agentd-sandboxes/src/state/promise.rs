//! Several sandboxes appear as one. They are made in staging, and one `rename` puts them all into `promised`: from then on they are. Who
//! made them moves them to their places before the lock is given up; if it dies over that, the next to take the lock does it.

use super::State;
use crate::{
    error::{Doing as _, StateError},
    record::{self, Record, exists},
};
use agentd_disk::{Lock, Staging, entries, flush_directory, make_folder};
use std::{fs, path::PathBuf};

impl State {
    /// Makes these sandboxes, whose names are free and whose layers are there, appear together.
    pub(super) fn appear(&self, records: &[Record], staging: &Staging, lock: &Lock) -> Result<(), StateError> {
        self.flush_layers()?;
        let made = staging.path().join("made");
        make_folder(&made)?;
        for record in records {
            record::make_directory(&made.join(&record.name), record)?;
        }
        if let [record] = records {
            let place = self.sandbox(&record.name);
            fs::rename(made.join(&record.name), &place).doing("rename to", place)?;
            return Ok(flush_directory(&self.named())?);
        }
        flush_directory(&made)?;
        fs::rename(&made, self.promised()).doing("rename to", self.promised())?;
        flush_directory(&self.root)?;
        self.keep_promise(lock)
    }

    /// Moves what is promised to its place.
    pub(super) fn keep_promise(&self, _lock: &Lock) -> Result<(), StateError> {
        if !exists(&self.promised())? {
            return Ok(());
        }
        for sandbox in entries(&self.promised())? {
            let place = self.named().join(sandbox.file_name().unwrap_or_default());
            fs::rename(&sandbox, &place).doing("rename to", place)?;
        }
        flush_directory(&self.named())?;
        fs::remove_dir(self.promised()).doing("remove", self.promised())
    }

    /// Before reading without the lock: what is promised is seen in its place.
    pub(super) fn wait_for_promise(&self) -> Result<(), StateError> {
        if exists(&self.promised())? { self.lock().map(drop) } else { Ok(()) }
    }

    fn promised(&self) -> PathBuf {
        self.root.join("promised")
    }
}
