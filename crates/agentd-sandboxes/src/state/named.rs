//! Creates, reads, updates and removes sandboxes.

use super::{directory::SandboxStore, volumes::size};
use crate::{
    error::StoreError,
    layer::Draft,
    name::Name,
    record::{Record, SandboxSettings, exists, now},
};
use agentd_core::{Grant, Network, Root};
use agentd_disk::{FileContext as _, flush_directory};
use std::{fs, path::PathBuf};

impl SandboxStore {
    /// Creates a sandbox. If its spec contains [`agentd_core::Writable::Volume`], all its data is subject to that disk limit.
    ///
    /// # Errors
    /// [`StoreError::Taken`] if the name is in use, [`StoreError::Volume`] if there is a disk limit and this process cannot mount
    /// volumes.
    pub fn create(&self, name: &Name, about: SandboxSettings) -> Result<Record, StoreError> {
        let lock = self.lock()?;
        self.is_free(name)?;
        let staging = self.stage(&lock)?;
        drop(lock);
        let volume = size(&about).map(|bytes| self.make_volume(bytes, &staging)).transpose()?;
        let lock = self.lock()?;
        self.is_free(name)?;
        let volume_dir = volume.as_ref().map(|(volume_dir, _)| volume_dir);
        let upper = Draft::make(&staging, volume_dir)?.adopt(&self.layers(), &lock)?;
        let record = Record::new(name, about, Vec::new(), upper, None);
        self.create_together(std::slice::from_ref(&record), &staging, &lock)?;
        Ok(record)
    }

    /// Returns the record of a sandbox.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no such sandbox, [`StoreError::Damaged`] if its record cannot be read.
    pub fn record(&self, name: &Name) -> Result<Record, StoreError> {
        self.wait_for_journal()?;
        self.load(name)
    }

    /// Returns all records, sorted by name. A damaged record is an error in the list.
    ///
    /// # Errors
    /// [`StoreError`] if the names of the sandboxes cannot be listed.
    pub fn list(&self) -> Result<Vec<Result<Record, StoreError>>, StoreError> {
        self.wait_for_journal()?;
        let records = self.names()?.into_iter().map(|name| self.load(&name));
        // A sandbox that was removed in the meantime is omitted.
        Ok(records.filter(|record| !matches!(record, Err(StoreError::NotFound { .. }))).collect())
    }

    /// Records the current time as the last use of a sandbox. The call waits for the disk, so it is meant for each session, not
    /// for each command.
    ///
    /// # Errors
    /// [`StoreError`] if the record cannot be read or written.
    pub fn touch(&self, name: &Name) -> Result<Record, StoreError> {
        let lock = self.lock()?;
        let mut record = self.load(name)?;
        record.used = now();
        self.replace(&record, &lock)?;
        Ok(record)
    }

    /// Replaces the grants of a sandbox, which must not be running.
    ///
    /// # Errors
    /// [`StoreError`] if the record cannot be read or written.
    pub fn regrant(&self, name: &Name, grants: Vec<Grant>) -> Result<(), StoreError> {
        let lock = self.lock()?;
        let mut record = self.load(name)?;
        record.about.spec.grants = grants;
        self.replace(&record, &lock)
    }

    /// Replaces the network of a sandbox. The record is on disk when this function returns.
    ///
    /// # Errors
    /// [`StoreError`] if the record cannot be read or written.
    pub fn set_network(&self, name: &Name, network: Network) -> Result<(), StoreError> {
        let lock = self.lock()?;
        let mut record = self.load(name)?;
        record.about.spec.network = network;
        self.replace(&record, &lock)
    }

    /// Removes a sandbox and its snapshots, even if the sandbox is damaged. Layers that only this sandbox needed remain until
    /// [`SandboxStore::collect`].
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is no such sandbox.
    pub fn remove(&self, name: &Name) -> Result<(), StoreError> {
        let lock = self.lock()?;
        let place = self.sandbox(name);
        if !exists(&place)? {
            return Err(StoreError::NotFound { name: name.clone() });
        }
        let staging = self.stage(&lock)?;
        fs::rename(&place, staging.path().join("removed")).during("move to staging", place)?;
        flush_directory(&self.named_directory())?;
        drop(lock);
        Ok(staging.remove()?)
    }

    /// Returns the trees of all image layers that sandboxes need.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if a record cannot be read, because its needs are unknown.
    pub fn needed_image_layers(&self) -> Result<Vec<PathBuf>, StoreError> {
        let lock = self.lock()?;
        let roots = self.load_all(&lock)?.into_iter().map(|record| record.about.spec.root);
        let layers = roots.filter_map(|root| if let Root::Layers(layers) = root { Some(layers) } else { None });
        Ok(layers.flatten().collect())
    }

    /// Fails if a sandbox has this name.
    pub(super) fn is_free(&self, name: &Name) -> Result<(), StoreError> {
        if exists(&self.sandbox(name))? { Err(StoreError::Taken { name: name.clone() }) } else { Ok(()) }
    }
}
