//! The directory of the store and the operations on it.
//!
//! ```text
//! root/                    the store, with the mode 0700
//! ├── lock                 held (flock) during each atomic step, and never for long
//! ├── images.json          references → manifests
//! ├── blobs/sha256/        manifests and configurations
//! ├── layers/<diff id>/    one unpacked layer: `tree` and `about.json`
//! └── staging/<random>/    files being created, or pins of layers in use; locked (flock) by the creator
//! ```
//!
//! **Crash consistency.** A layer, a blob and `images.json` are each created by one `rename`, after their contents were flushed.
//! References come last, so everything that `images.json` refers to exists. Everything else is in a staging directory. The next
//! [`Store::open`] removes the staging directories whose creator is dead, because the kernel has released their locks.
//!
//! **Concurrent collection.** An import *pins* each layer of its image before it checks whether the layer exists. Both steps
//! happen under the lock, and a [`Hold`] does the same. [`Store::gc`] reads the pins and references, and moves layers away, under
//! the same lock.

mod blobs;
mod collect;
mod hold;
mod index;
mod layers;
mod staging;

pub use collect::Collected;
pub use hold::Hold;
pub(crate) use layers::LayerStatistics;
pub(crate) use staging::Staging;

use crate::{
    digest::Digest,
    error::{Damage, ImageError},
    image::{Image, ImageConfig},
    manifest::{self, Config, Manifest},
    unpack::Ownership,
};
use agentd_disk::{FileContext as _, Lock, NotPrivate};
use index::Index;
use oci_client::Reference;
use std::{
    collections::HashSet,
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// A store of images. Any number of processes may open the same directory any number of times.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    ownership: Ownership,
}

impl Store {
    /// Opens the store at `root`, creates it if it does not exist, and removes the imports and holds of dead processes.
    ///
    /// # Errors
    /// [`ImageError::Place`] if `root` is not private to the caller, [`ImageError::Io`] if a file operation fails.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        make_private(root)?;
        // Absolute, because the returned paths must stay valid if the caller changes its working directory.
        let root = fs::canonicalize(root).during("resolve", root)?;
        let store = Self { root, ownership: Ownership::of_this_process() };
        for folder in [store.layers(), store.staging(), store.blobs()] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).during("create", &folder)?;
        }
        let abandoned = agentd_disk::abandoned(&store.staging(), &store.lock()?)?;
        abandoned.into_iter().try_for_each(agentd_disk::Staging::remove)?;
        Ok(store)
    }

    /// Returns the image with this reference.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] if there is none, [`ImageError::Damaged`] if a part of the image is missing or changed.
    pub fn image(&self, reference: &Reference) -> Result<Image, ImageError> {
        let digest =
            Index::read(&self.root)?.get(reference).ok_or_else(|| ImageError::NotFound { reference: reference.clone() })?;
        self.load(reference.clone(), digest)
    }

    /// Returns all images, sorted by reference. A damaged image is an error in the list. References that cannot be parsed are
    /// omitted.
    ///
    /// # Errors
    /// [`ImageError::Index`] or [`ImageError::Io`] if the list of images cannot be read.
    pub fn images(&self) -> Result<Vec<Result<Image, ImageError>>, ImageError> {
        Ok(Index::read(&self.root)?.into_iter().map(|(reference, digest)| self.load(reference, digest)).collect())
    }

    /// Removes a reference. Layers and blobs that only this reference needed remain until [`Store::gc`].
    ///
    /// # Errors
    /// [`ImageError::NotFound`] if there is no such reference.
    pub fn remove(&self, reference: &Reference) -> Result<(), ImageError> {
        let lock = self.lock()?;
        let mut index = Index::read(&self.root)?;
        if !index.remove(reference) {
            return Err(ImageError::NotFound { reference: reference.clone() });
        }
        let staging = Staging::make(&self.staging(), &lock)?;
        index.write(&self.root, &staging.draft())
    }

    pub(crate) fn stage(&self) -> Result<Staging, ImageError> {
        Staging::make(&self.staging(), &self.lock()?)
    }

    /// Pins a layer while `staging` exists, and returns true if the layer is in the store.
    pub(crate) fn pin(&self, staging: &Staging, layer: Digest) -> Result<bool, ImageError> {
        let lock = self.lock()?;
        staging.pin(layer, &lock)?;
        Ok(self.layer(layer).exists())
    }

    /// Commits the staged parts as an image: layers first, the reference last. The reference is written only after the whole
    /// image was loaded again, because a layer that the store already had may be damaged.
    pub(crate) fn commit(
        &self,
        staging: &Staging,
        reference: &Reference,
        manifest: &[u8],
        config: &[u8],
    ) -> Result<Image, ImageError> {
        agentd_disk::flush_all(staging.path())?;
        let _lock = self.lock()?;
        for layer in staging.layers()? {
            layers::adopt(&staging.layer(layer), &self.layer(layer))?;
        }
        agentd_disk::flush_directory(&self.layers())?;
        for blob in [config, manifest] {
            blobs::write(&self.blobs(), &staging.draft(), blob)?;
        }
        agentd_disk::flush_directory(&self.blobs())?;
        let image = self.load(reference.clone(), Digest::compute(manifest))?;
        let mut index = Index::read(&self.root)?;
        index.set(reference, image.digest);
        index.write(&self.root, &staging.draft())?;
        Ok(image)
    }

    pub(crate) fn ownership(&self) -> Ownership {
        self.ownership
    }

    fn load(&self, reference: Reference, digest: Digest) -> Result<Image, ImageError> {
        let name = reference.whole();
        let (_, Config { config, rootfs, .. }) = self.described(&name, digest)?;
        let config = ImageConfig::from_run(config);
        let mut image =
            Image { reference, digest, config, layers: Vec::new(), size: 0, skipped_devices: 0, skipped_attributes: 0 };
        let mut seen = HashSet::new();
        let mut hidden = false;
        // The layers are visited from the top, because the uppermost occurrence of a repeated layer determines what is visible.
        for diff_id in rootfs.diff_ids.iter().rev().filter(|diff_id| seen.insert(**diff_id)) {
            let layer = self.layer(*diff_id);
            // Hidden layers are read too: the damage must be reported for every image that shares a layer, or that layer is never
            // collected.
            let about = LayerStatistics::read(&layer)?.map_err(|damage| damaged(&name, format!("layer {diff_id}"), damage))?;
            if !hidden {
                image.layers.push(layers::tree(&layer));
                image.size += about.bytes;
                image.skipped_devices += about.skipped_devices;
                image.skipped_attributes += about.skipped_attributes;
                hidden = about.hides_all_below;
            }
        }
        image.layers.reverse();
        Ok(image)
    }

    /// Reads the manifest and configuration of an image. `name` identifies the image in errors.
    fn described(&self, name: &str, digest: Digest) -> Result<(Manifest, Config), ImageError> {
        let read = |part: &str, digest| blobs::read(&self.blobs(), digest)?.map_err(|damage| damaged(name, part.into(), damage));
        let manifest: Manifest = manifest::parse("the manifest", &read("manifest", digest)?)?;
        let config = Config::parse(&read("configuration", manifest.config.digest)?, manifest.layers.len())?;
        Ok((manifest, config))
    }

    fn lock(&self) -> Result<Lock, ImageError> {
        Ok(Lock::take(&self.root.join("lock"))?)
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    fn layer(&self, diff_id: Digest) -> PathBuf {
        self.layers().join(diff_id.hex())
    }

    fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }
}

fn damaged(reference: &str, part: String, damage: Damage) -> ImageError {
    ImageError::Damaged { reference: reference.to_owned(), part, damage }
}

/// Creates the directory, or checks that it is private to the caller.
fn make_private(root: &Path) -> Result<(), ImageError> {
    agentd_disk::make_private(root).map_err(|error| match error {
        NotPrivate::Disk(error) => error.into(),
        NotPrivate::Refused(why) => ImageError::Place { path: root.to_owned(), why },
    })
}
