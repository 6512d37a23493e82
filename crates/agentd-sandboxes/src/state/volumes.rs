//! Sandboxes with a limit have a *volume* each, a file system of that size (`agentd_kernel::volume`), in which all layers are that were made
//! for them: so what one keeps, snapshots included, is bounded together, and sealing stays a matter of one file system.
//!
//! In `layers`, such a layer is a symbolic link into its volume, made last and in one step: what no link leads to was never a layer. A fork
//! has a volume of its own, and layers below that lie in those of its origins; so a volume is needed for as long as a link leads into it.

use super::State;
use crate::{
    error::{Doing as _, StateError},
    layer::{self, Home},
    layer_id::LayerId,
    mounts::Mounted,
    name::Name,
    record::{Record, exists},
    volume_id::VolumeId,
};
use agentd_core::{Bytes, Layer, LayerError, Writable};
use agentd_disk::{Staging, entries, make_folder};
use agentd_kernel::volume::{NEEDS, Volume};
use std::{collections::BTreeSet, fs, io, os::unix::fs::MetadataExt, path::PathBuf, time::Duration};

/// The parts of a volume's directory: its image, and where that is mounted.
pub(super) const IMAGE: &str = "image";
pub(super) const AT: &str = "at";

/// In how many volumes the layers of one sandbox may be: each is a loop device and a mount while it runs.
const DEEPEST: usize = 16;

/// How much room a sandbox with a limit has, and takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Bytes that it may have altogether; its file system needs some of them for itself.
    pub size: u64,
    /// Bytes that it takes on the host's disk now.
    pub used: u64,
}

impl State {
    /// How much room a sandbox has, if that is limited, and takes of it. What layers it has of those that it was forked from is theirs.
    pub fn disk(&self, record: &Record) -> Result<Option<Disk>, StateError> {
        let Some(size) = size(&record.about) else { return Ok(None) };
        let Some(volume) = self.volume_of(record.top)? else { return Ok(None) };
        let image = self.volume(volume).join(IMAGE);
        let found = image.symlink_metadata().doing("look at", image)?;
        // In units of 512 bytes, whatever the block of the file system is (`stat(3type)`).
        Ok(Some(Disk { size, used: found.blocks() * 512 }))
    }

    /// Unmounts the volumes that nothing has used for so long. Waits for the disk.
    pub fn rest(&self, unused: Duration) {
        if let Some(mounts) = &self.mounts {
            mounts.rest(unused);
        }
    }

    /// The volume that a layer is in, if it is in one.
    pub(super) fn volume_of(&self, layer: LayerId) -> Result<Option<VolumeId>, StateError> {
        let link = self.layer(layer);
        match fs::read_link(&link) {
            // It is a directory, or lost.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotFound) => Ok(None),
            Err(error) => Err(error).doing("read", link),
            Ok(target) => {
                let volume = target.iter().nth(2).and_then(|name| name.to_str()?.parse().ok());
                Ok(volume.filter(|volume| layer::target(*volume, layer) == target))
            }
        }
    }

    /// Where a layer is, without links in its name.
    pub(super) fn place_of(&self, layer: LayerId) -> PathBuf {
        match self.volume_of(layer) {
            Ok(Some(volume)) => self.inside(volume).join(layer.to_string()),
            _ => self.layer(layer),
        }
    }

    /// Mounts the volumes in which these layers are.
    pub(super) fn mount(&self, layers: impl IntoIterator<Item = LayerId>) -> Result<Mounted, StateError> {
        let volumes = layers.into_iter().filter_map(|layer| self.volume_of(layer).transpose());
        self.mount_all(volumes.collect::<Result<BTreeSet<_>, _>>()?)
    }

    /// Mounts volumes.
    pub(super) fn mount_all(&self, volumes: impl IntoIterator<Item = VolumeId>) -> Result<Mounted, StateError> {
        let mut mounted = Mounted::default();
        for volume in volumes {
            let mounts = self.mounts.as_ref().ok_or_else(needs_root)?;
            let folder = self.volume(volume);
            let is_new = mounts.mount(volume, &folder.join(IMAGE), &folder.join(AT), &mut mounted)?;
            // It is missing only where who made the volume died before.
            if is_new && !exists(&self.inside(volume))? {
                make_folder(&self.inside(volume))?;
            }
        }
        Ok(mounted)
    }

    /// The volume for the layers of a sandbox whose top is this, mounted by whoever asks.
    pub(super) fn home_of(&self, top: LayerId) -> Result<Option<Home>, StateError> {
        Ok(self.volume_of(top)?.map(|volume| self.home(volume)))
    }

    /// Makes a volume of `bytes` bytes and mounts it. It is kept for as long as `staging` is, or something is in it.
    pub(super) fn make_volume(&self, bytes: u64, staging: &Staging) -> Result<(Home, Mounted), StateError> {
        // Before anything is made.
        self.mounts.as_ref().ok_or_else(needs_root)?;
        let volume = VolumeId::draw().doing("name", staging.path())?;
        let draft = staging.path().join(volume.to_string());
        make_folder(&draft)?;
        Volume::format(&draft.join(IMAGE), bytes)?;
        make_folder(&draft.join(AT))?;
        let lock = self.lock()?;
        staging.pin(volume, &lock)?;
        let place = self.volume(volume);
        fs::rename(&draft, &place).doing("rename to", place)?;
        agentd_disk::flush_directory(&self.volumes())?;
        drop(lock);
        let (home, mounted) = (self.home(volume), self.mount_all([volume])?);
        home.keep_reserve(&self.lock()?)?;
        Ok((home, mounted))
    }

    /// Refuses a stack over which no sandbox with a limit can be.
    pub(super) fn is_shallow(&self, record: &Record, stack: &[LayerId]) -> Result<(), StateError> {
        let volumes = stack.iter().filter_map(|layer| self.volume_of(*layer).transpose()).collect::<Result<BTreeSet<_>, _>>()?;
        if volumes.len() >= DEEPEST { Err(StateError::TooDeep { name: record.name.clone(), deepest: DEEPEST }) } else { Ok(()) }
    }

    /// The volumes into which links lead.
    pub(super) fn linked(&self) -> Result<BTreeSet<VolumeId>, StateError> {
        let layers = entries(&self.layers())?.into_iter().filter_map(|path| LayerId::of(&path));
        layers.filter_map(|layer| self.volume_of(layer).transpose()).collect()
    }

    /// What is in the layers' place of a volume, which is mounted, and whether a link of `layers` leads to it.
    pub(super) fn strays(&self, volume: VolumeId) -> Result<Vec<PathBuf>, StateError> {
        let mut strays = entries(&self.inside(volume))?;
        let linked = |path: &PathBuf| {
            let layer = LayerId::of(path)?;
            (self.volume_of(layer).ok()? == Some(volume)).then_some(())
        };
        strays.retain(|path| linked(path).is_none());
        Ok(strays)
    }

    /// Whether an error says that a volume is full.
    pub(super) fn is_full(&self, error: &StateError) -> bool {
        let StateError::Io { source, path, .. } = error else { return false };
        source.kind() == io::ErrorKind::StorageFull && path.starts_with(self.volumes())
    }

    /// The same error, in the words of who asked for something of a sandbox.
    pub(super) fn told(&self, name: &Name, error: StateError) -> StateError {
        if self.is_full(&error) { StateError::Full { name: name.clone() } } else { error }
    }

    pub(super) fn home(&self, volume: VolumeId) -> Home {
        Home { volume, layers: self.inside(volume) }
    }

    pub(super) fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    pub(super) fn volume(&self, volume: VolumeId) -> PathBuf {
        self.volumes().join(volume.to_string())
    }

    /// Where the layers in a volume are, while it is mounted.
    pub(super) fn inside(&self, volume: VolumeId) -> PathBuf {
        self.volume(volume).join(AT).join(layer::INSIDE)
    }
}

/// The limit that a sandbox was asked to have, bytes.
pub(super) fn size(about: &crate::About) -> Option<u64> {
    match about.spec.writable {
        Writable::Volume(Bytes(bytes)) => Some(bytes),
        _ => None,
    }
}

fn needs_root() -> StateError {
    let errno = rustix::io::Errno::PERM.raw_os_error();
    LayerError::new(Layer::Volume, "mount the disk of a sandbox", Some(errno)).remedy(NEEDS).into()
}
