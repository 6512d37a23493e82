//! The store's directory and what may be asked of it.
//!
//! ```text
//! root/                    0700, its owner's alone
//! ├── lock                 held (flock) for each step that must be one: never for long
//! ├── images.json          references → manifests
//! ├── blobs/sha256/        manifests and configurations
//! ├── layers/<diff id>/    one unpacked layer: `tree`, and `about.json` beside it
//! └── staging/<random>/    what is being made, or layers that are in use; held (flock) by its maker
//! ```
//!
//! **Why a crash leaves it consistent.** A layer, a blob and `images.json` each come into being by one `rename`, after what they hold was
//! flushed. References come last, so everything that `images.json` leads to is there. All else is in a staging directory, and the
//! next [`Store::open`] removes those whose maker is dead: the kernel gave up its lock with it.
//!
//! **Why collecting is safe beside it.** An import *pins* each layer of its image before it looks whether the layer is there, both
//! under the lock, and so does a [`Hold`]; [`Store::gc`] reads the pins and references, and takes layers away, under the same lock.

mod blobs;
mod collect;
mod hold;
mod index;
mod layers;
mod staging;

pub use collect::Collected;
pub use hold::Hold;
pub(crate) use layers::About;
pub(crate) use staging::Staging;

use crate::{
    digest::Digest,
    error::{Damage, Doing as _, ImageError},
    image::{Image, ImageConfig},
    manifest::{self, Config, Manifest},
    unpack::Ownership,
};
use agentd_disk::{Lock, NotPrivate};
use index::Index;
use oci_client::Reference;
use std::{
    collections::HashSet,
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// A store of images. Any number of them, in any number of processes, may be open on one directory.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    ownership: Ownership,
}

impl Store {
    /// Opens the store at `root`, which is made if it is not there, and removes what the dead left in it: imports and holds.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        make_private(root)?;
        // Absolute: the paths that are given out outlive the caller's working directory.
        let root = fs::canonicalize(root).doing("find", root)?;
        let store = Self { root, ownership: Ownership::of_this_process() };
        for folder in [store.layers(), store.staging(), store.blobs()] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).doing("make", &folder)?;
        }
        let abandoned = agentd_disk::abandoned(&store.staging(), &store.lock()?)?;
        abandoned.into_iter().try_for_each(agentd_disk::Staging::remove)?;
        Ok(store)
    }

    /// The image with this reference.
    pub fn image(&self, reference: &Reference) -> Result<Image, ImageError> {
        let digest =
            Index::read(&self.root)?.get(reference).ok_or_else(|| ImageError::NotFound { reference: reference.clone() })?;
        self.load(reference.clone(), digest)
    }

    /// All images, by reference; of one that is damaged, how.
    pub fn images(&self) -> Result<Vec<Result<Image, ImageError>>, ImageError> {
        Ok(Index::read(&self.root)?.into_iter().map(|(reference, digest)| self.load(reference, digest)).collect())
    }

    /// Forgets a reference. What only it led to is there until [`Store::gc`].
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

    /// Keeps a layer from being collected while `staging` lives, and says whether it is there.
    pub(crate) fn pin(&self, staging: &Staging, layer: Digest) -> Result<bool, ImageError> {
        let lock = self.lock()?;
        staging.pin(layer, &lock)?;
        Ok(self.layer(layer).exists())
    }

    /// Makes an image of what was staged: its layers first, its reference last, and that only when all of it is there and whole. A layer
    /// that was in the store already may not be.
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
        let image = self.load(reference.clone(), Digest::of(manifest))?;
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
        let config = ImageConfig::of(config);
        let mut image =
            Image { reference, digest, config, layers: Vec::new(), size: 0, skipped_devices: 0, skipped_attributes: 0 };
        let mut seen = HashSet::new();
        let mut hidden = false;
        // From the top, so that of a layer that is there twice the upper one stays: it alone decides what is seen.
        for diff_id in rootfs.diff_ids.iter().rev().filter(|diff_id| seen.insert(**diff_id)) {
            let layer = self.layer(*diff_id);
            // Of a hidden one too: who shares a damaged layer must be found, or it would never be collected.
            let about = About::read(&layer)?.map_err(|damage| damaged(&name, format!("layer {diff_id}"), damage))?;
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

    /// The manifest and configuration of the image that is called `name`.
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

/// Makes the directory, or checks that it is ours alone.
fn make_private(root: &Path) -> Result<(), ImageError> {
    agentd_disk::make_private(root).map_err(|error| match error {
        NotPrivate::Disk(error) => error.into(),
        NotPrivate::Refused(why) => ImageError::Place { path: root.to_owned(), why },
    })
}
