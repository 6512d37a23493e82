//! An image from a registry: its manifest and configuration first, then the layers that the store lacks, into a staging directory; from
//! there it is taken in like any other image. `oci-client` holds all that comes to its digest; layers are hashed again as they are unpacked.

mod download;
mod login;
mod registry;

use crate::{
    digest::Digest,
    error::{Doing as _, ImageError},
    image::Image,
    manifest::{Config, Document, MOST_INDEXES, Manifest, choose},
    source::{Described, Files, Layer, blob},
    store::{Staging, Store},
};
use oci_client::Reference;
use registry::Registry;
use std::{fs, fs::File};

/// How far the download of a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The layer, as the manifest names it.
    pub layer: Digest,
    /// Bytes that have come.
    pub received: u64,
    /// Bytes that will have come.
    pub total: u64,
}

impl Store {
    /// Fetches `reference` from its registry, for this machine's platform. The login is Docker's (`~/.docker/config.json`, or where
    /// `DOCKER_CONFIG` says, credential helpers included). A registry on this machine's loopback is spoken to without TLS and past any
    /// proxy, all others with TLS and through the proxy that the environment names (`https_proxy`).
    ///
    /// To be called on a Tokio runtime. When the future is dropped while layers are on their way, nothing of the image stays; when all have
    /// come, it is taken in nevertheless.
    pub async fn pull(&self, reference: &Reference, mut progress: impl FnMut(Progress) + Send) -> Result<Image, ImageError> {
        let staging = self.stage()?;
        let layout = staging.path().join("layout");
        fs::create_dir_all(layout.join("blobs/sha256")).doing("make", &layout)?;

        let registry = Registry::of(reference).await?;
        let (bytes, manifest) = find(&registry, reference).await?;
        let config = registry.document(&manifest.config).await?;
        let diff_ids = Config::parse(&config, manifest.layers.len())?.rootfs.diff_ids;
        for (layer, diff_id) in manifest.layers.iter().zip(diff_ids) {
            let path = layout.join(blob(layer.digest));
            if !self.pin(&staging, diff_id)? && !path.exists() {
                registry.layer(layer, &path, &mut progress).await?;
            }
        }

        let files = Files::Directory(File::open(&layout).doing("open", &layout)?);
        let layers = manifest.layers.into_iter().map(Layer::of_layout).collect();
        let described = Described { manifest: bytes, config, layers, files };
        self.take_in_background(staging, described, reference.clone()).await
    }

    /// Unpacking is work for a thread that may be kept busy.
    async fn take_in_background(&self, staging: Staging, image: Described, reference: Reference) -> Result<Image, ImageError> {
        let store = self.clone();
        let work = move || store.take_described(&staging, &image, &reference);
        tokio::task::spawn_blocking(work).await.map_err(|_| ImageError::GivenUp)?
    }
}

/// The manifest that `reference` leads to on this machine.
async fn find(registry: &Registry, reference: &Reference) -> Result<(Vec<u8>, Manifest), ImageError> {
    let mut bytes = registry.manifest(reference).await?;
    for _ in 0..MOST_INDEXES {
        match Document::parse(&bytes)? {
            Document::Manifest(manifest) => return Ok((bytes, manifest)),
            Document::Index(index) => {
                let digest = choose(&index.manifests)?.digest;
                bytes = registry.manifest(&reference.clone_with_digest(digest.to_string())).await?;
            }
        }
    }
    Err(ImageError::Contradiction("its indexes lead to indexes without end"))
}
