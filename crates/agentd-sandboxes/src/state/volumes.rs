//! Each sandbox with a disk limit has a *volume*, a file system of that size (`agentd_kernel::volume`) with all layers that were
//! created for the sandbox. The limit thus covers the sandbox and its snapshots together, and a commit stays within one file
//! system.
//!
//! In `layers`, such a layer is a symbolic link into its volume, created last and atomically: a directory in a volume without a
//! link is not a layer. A fork has its own volume, and its lower layers are in the volumes of its origins. A volume is therefore
//! needed as long as any link points into it.

use super::directory::SandboxStore;
use crate::{
    error::StoreError,
    layer::{self, VolumeDir},
    layer_id::LayerId,
    mounts::Mounted,
    name::Name,
    record::{Record, exists},
    volume_id::VolumeId,
};
use agentd_core::{Bytes, Control, ControlError, Writable};
use agentd_disk::{FileContext as _, Staging, entries, make_folder};
use agentd_kernel::volume::{NEEDS, Volume};
use std::{collections::BTreeSet, fs, io, os::unix::fs::MetadataExt, path::PathBuf, time::Duration};

/// The entries of a volume's directory: the image and its mount point.
pub(super) const IMAGE: &str = "image";
pub(super) const AT: &str = "at";

/// Maximum number of volumes with layers of one sandbox. Each needs a loop device and a mount while the sandbox runs.
const MAX_VOLUMES: usize = 16;

/// The disk limit and disk usage of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Size of the volume, in bytes. Its file system needs some of them for its own structures.
    pub size: u64,
    /// Space in use on the host's disk, in bytes.
    pub used: u64,
}

impl SandboxStore {
    /// Returns the disk limit and usage of a sandbox, if it has a limit. Layers inherited from the origins of a fork count for
    /// those origins.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the volume cannot be inspected.
    pub fn disk(&self, record: &Record) -> Result<Option<Disk>, StoreError> {
        let Some(size) = size(&record.about) else { return Ok(None) };
        let Some(volume) = self.volume_of(record.upper)? else { return Ok(None) };
        let image = self.volume(volume).join(IMAGE);
        let found = image.symlink_metadata().during("stat", image)?;
        // `st_blocks` counts units of 512 bytes, whatever the block size of the file system is (`man 3type stat`).
        Ok(Some(Disk { size, used: found.blocks() * 512 }))
    }

    /// Unmounts the volumes that have been unused for at least `unused`. Waits for the disk.
    pub fn unmount_unused(&self, unused: Duration) {
        if let Some(mounts) = &self.mounts {
            mounts.unmount_unused(unused);
        }
    }

    /// Returns the volume that contains a layer, if any.
    pub(super) fn volume_of(&self, layer: LayerId) -> Result<Option<VolumeId>, StoreError> {
        let link = self.layer(layer);
        match fs::read_link(&link) {
            // The layer is a directory, or missing.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotFound) => Ok(None),
            Err(error) => Err(error).during("read", link)?,
            Ok(target) => {
                let volume = target.iter().nth(2).and_then(|name| name.to_str()?.parse().ok());
                Ok(volume.filter(|volume| layer::target(*volume, layer) == target))
            }
        }
    }

    /// Returns the path of a layer with the link into its volume resolved.
    pub(super) fn place_of(&self, layer: LayerId) -> PathBuf {
        match self.volume_of(layer) {
            Ok(Some(volume)) => self.inside(volume).join(layer.to_string()),
            _ => self.layer(layer),
        }
    }

    /// Mounts the volumes that contain these layers.
    pub(super) fn mount(&self, layers: impl IntoIterator<Item = LayerId>) -> Result<Mounted, StoreError> {
        let volumes = layers.into_iter().filter_map(|layer| self.volume_of(layer).transpose());
        self.mount_all(volumes.collect::<Result<BTreeSet<_>, _>>()?)
    }

    /// Mounts these volumes.
    pub(super) fn mount_all(&self, volumes: impl IntoIterator<Item = VolumeId>) -> Result<Mounted, StoreError> {
        let mut mounted = Mounted::default();
        for volume in volumes {
            let mounts = self.mounts.as_ref().ok_or_else(needs_root)?;
            let folder = self.volume(volume);
            let is_new = mounts.mount(volume, &folder.join(IMAGE), &folder.join(AT), &mut mounted)?;
            // Missing only if the creator of the volume died before this step.
            if is_new && !exists(&self.inside(volume))? {
                make_folder(&self.inside(volume))?;
            }
        }
        Ok(mounted)
    }

    /// Returns the volume for the layers of the sandbox with this upper layer. The caller mounts the volume.
    pub(super) fn volume_dir_of(&self, upper: LayerId) -> Result<Option<VolumeDir>, StoreError> {
        Ok(self.volume_of(upper)?.map(|volume| self.volume_dir(volume)))
    }

    /// Creates and mounts a volume of `bytes` bytes. The volume is kept as long as `staging` exists or a layer is in it.
    pub(super) fn make_volume(&self, bytes: u64, staging: &Staging) -> Result<(VolumeDir, Mounted), StoreError> {
        // Fails before anything is created.
        self.mounts.as_ref().ok_or_else(needs_root)?;
        let volume = VolumeId::random().during("choose a random volume id in", staging.path())?;
        let draft = staging.path().join(volume.to_string());
        make_folder(&draft)?;
        Volume::format(&draft.join(IMAGE), bytes)?;
        make_folder(&draft.join(AT))?;
        let lock = self.lock()?;
        staging.pin(volume, &lock)?;
        let place = self.volume(volume);
        fs::rename(&draft, &place).during("rename to", place)?;
        agentd_disk::flush_directory(&self.volumes())?;
        drop(lock);
        let (volume_dir, mounted) = (self.volume_dir(volume), self.mount_all([volume])?);
        volume_dir.keep_reserve(&self.lock()?)?;
        Ok((volume_dir, mounted))
    }

    /// Fails if a sandbox with a disk limit above `stack` would have layers in too many volumes.
    pub(super) fn check_volume_count(&self, record: &Record, stack: &[LayerId]) -> Result<(), StoreError> {
        let volumes = stack.iter().filter_map(|layer| self.volume_of(*layer).transpose()).collect::<Result<BTreeSet<_>, _>>()?;
        if volumes.len() >= MAX_VOLUMES {
            Err(StoreError::TooDeep { name: record.name.clone(), max: MAX_VOLUMES })
        } else {
            Ok(())
        }
    }

    /// Returns the volumes into which links point.
    pub(super) fn linked(&self) -> Result<BTreeSet<VolumeId>, StoreError> {
        let layers = entries(&self.layers())?.into_iter().filter_map(|path| LayerId::from_path(&path));
        layers.filter_map(|layer| self.volume_of(layer).transpose()).collect()
    }

    /// Returns the entries in the layer directory of a mounted volume to which no link in `layers` points.
    pub(super) fn unreferenced(&self, volume: VolumeId) -> Result<Vec<PathBuf>, StoreError> {
        let mut unreferenced = Vec::new();
        for path in entries(&self.inside(volume))? {
            let linked = LayerId::from_path(&path).map_or(Ok(None), |layer| self.volume_of(layer))?;
            if linked != Some(volume) {
                unreferenced.push(path);
            }
        }
        Ok(unreferenced)
    }

    /// Returns true if an error means that a volume is full.
    pub(super) fn is_full(&self, error: &StoreError) -> bool {
        let StoreError::Io { source, path, .. } = error else { return false };
        source.kind() == io::ErrorKind::StorageFull && path.starts_with(self.volumes())
    }

    /// Converts the error of a full volume to [`StoreError::Full`] for the sandbox `name`; returns other errors unchanged.
    pub(super) fn or_full(&self, name: &Name, error: StoreError) -> StoreError {
        if self.is_full(&error) { StoreError::Full { name: name.clone() } } else { error }
    }

    pub(super) fn volume_dir(&self, volume: VolumeId) -> VolumeDir {
        VolumeDir { volume, layers: self.inside(volume) }
    }

    pub(super) fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    pub(super) fn volume(&self, volume: VolumeId) -> PathBuf {
        self.volumes().join(volume.to_string())
    }

    /// Returns the layer directory of a volume, valid while the volume is mounted.
    pub(super) fn inside(&self, volume: VolumeId) -> PathBuf {
        self.volume(volume).join(AT).join(layer::INSIDE)
    }
}

/// Returns the disk limit that a sandbox requests, in bytes.
pub(super) fn size(about: &crate::SandboxSettings) -> Option<u64> {
    match about.spec.writable {
        Writable::Volume(Bytes(bytes)) => Some(bytes),
        _ => None,
    }
}

fn needs_root() -> StoreError {
    let errno = rustix::io::Errno::PERM.raw_os_error();
    ControlError::new(Control::Volume, "mount the disk of a sandbox", Some(errno)).remedy(NEEDS).into()
}
