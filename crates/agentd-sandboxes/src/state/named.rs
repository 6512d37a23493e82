//! Sandboxes come, are looked at, and go.

use super::{State, volumes::size};
use crate::{
    error::{Doing as _, StateError},
    layer::Draft,
    name::Name,
    record::{About, Record, exists, now},
};
use agentd_core::Root;
use agentd_disk::flush_directory;
use std::{fs, path::PathBuf};

impl State {
    /// Makes a sandbox; with a limit for all that it keeps where its spec asks for [`agentd_core::Writable::Volume`].
    ///
    /// # Errors
    /// [`StateError::Taken`] if there is one of that name, [`StateError::Volume`] if there is to be a limit and this process can mount no
    /// volumes.
    pub fn create(&self, name: &Name, about: About) -> Result<Record, StateError> {
        let lock = self.lock()?;
        self.is_free(name)?;
        let staging = self.stage(&lock)?;
        drop(lock);
        let volume = size(&about).map(|bytes| self.make_volume(bytes, &staging)).transpose()?;
        let lock = self.lock()?;
        self.is_free(name)?;
        let home = volume.as_ref().map(|(home, _)| home);
        let top = Draft::make(&staging, home)?.adopt(&self.layers(), &lock)?;
        let record = Record::new(name, about, Vec::new(), top, None);
        self.appear(std::slice::from_ref(&record), &staging, &lock)?;
        Ok(record)
    }

    /// The record of a sandbox.
    pub fn record(&self, name: &Name) -> Result<Record, StateError> {
        self.wait_for_promise()?;
        self.load(name)
    }

    /// All records, by name; of one that is damaged, how.
    pub fn list(&self) -> Result<Vec<Result<Record, StateError>>, StateError> {
        self.wait_for_promise()?;
        let records = self.names()?.into_iter().map(|name| self.load(&name));
        // One that was removed meanwhile is not there.
        Ok(records.filter(|record| !matches!(record, Err(StateError::NotFound { .. }))).collect())
    }

    /// Notes that a sandbox is used now. It waits for the disk: it is for each use, not for each command of one.
    pub fn touch(&self, name: &Name) -> Result<Record, StateError> {
        let lock = self.lock()?;
        let mut record = self.load(name)?;
        record.used = now();
        self.replace(&record, &lock)?;
        Ok(record)
    }

    /// Removes a sandbox with its snapshots, also one that is damaged. The layers that only it had are there until
    /// [`State::collect`].
    pub fn remove(&self, name: &Name) -> Result<(), StateError> {
        let lock = self.lock()?;
        let place = self.sandbox(name);
        if !exists(&place)? {
            return Err(StateError::NotFound { name: name.clone() });
        }
        let staging = self.stage(&lock)?;
        fs::rename(&place, staging.path().join("removed")).doing("move away", place)?;
        flush_directory(&self.named())?;
        drop(lock);
        Ok(staging.remove()?)
    }

    /// The trees of all layers of images that sandboxes need.
    ///
    /// # Errors
    /// [`StateError::Damaged`] if a record cannot be read: what it needs is not known.
    pub fn needed_image_layers(&self) -> Result<Vec<PathBuf>, StateError> {
        let lock = self.lock()?;
        let roots = self.load_all(&lock)?.into_iter().map(|record| record.about.spec.root);
        let layers = roots.filter_map(|root| if let Root::Layers(layers) = root { Some(layers) } else { None });
        Ok(layers.flatten().collect())
    }

    /// Refuses a name that a sandbox has.
    pub(super) fn is_free(&self, name: &Name) -> Result<(), StateError> {
        if exists(&self.sandbox(name))? { Err(StateError::Taken { name: name.clone() }) } else { Ok(()) }
    }
}
