//! Downloads an image from a registry: first its manifest and configuration, then the layers that the store lacks, into a staging
//! directory. From there the image is imported like any other. `oci-client` verifies the digest of each download; layers are
//! hashed again while they are unpacked.

mod download;
mod login;
mod registry;

use crate::{
    digest::Digest,
    error::ImageError,
    image::Image,
    manifest::{Config, Document, MAX_INDEXES, Manifest, choose},
    source::{DescribedImage, Files, Layer, blob},
    store::{Staging, Store},
};
use agentd_disk::FileContext as _;
use oci_client::Reference;
use registry::Registry;
use std::{fs, fs::File};

/// The progress of one layer's download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The layer, as the manifest names it.
    pub layer: Digest,
    /// Bytes received so far.
    pub received: u64,
    /// Size of the layer, in bytes.
    pub total: u64,
}

impl Store {
    /// Downloads `reference` from its registry, for the platform of this host. The login is the one that Docker uses, including
    /// credential helpers, from `~/.docker/config.json` or the directory in `DOCKER_CONFIG`. A registry on the loopback interface
    /// is contacted without TLS and without a proxy. All others are contacted with TLS, through the proxy in the environment
    /// (`https_proxy`).
    ///
    /// The caller must be on a Tokio runtime. If the future is dropped during the download, nothing of the image is kept. If the
    /// future is dropped after all layers have arrived, the import still completes in the background.
    ///
    /// # Errors
    /// [`ImageError`] if the download, a digest check or the import fails.
    pub async fn pull(&self, reference: &Reference, mut progress: impl FnMut(Progress) + Send) -> Result<Image, ImageError> {
        let staging = self.stage()?;
        let layout = staging.path().join("layout");
        fs::create_dir_all(layout.join("blobs/sha256")).during("create", &layout)?;

        let registry = Registry::connect(reference).await?;
        let (bytes, manifest) = find(&registry, reference).await?;
        let config = registry.document(&manifest.config).await?;
        let diff_ids = Config::parse(&config, manifest.layers.len())?.rootfs.diff_ids;
        for (layer, diff_id) in manifest.layers.iter().zip(diff_ids) {
            let path = layout.join(blob(layer.digest));
            if !self.pin(&staging, diff_id)? && !path.exists() {
                registry.layer(layer, &path, &mut progress).await?;
            }
        }

        let files = Files::Directory(File::open(&layout).during("open", &layout)?);
        let layers = manifest.layers.into_iter().map(Layer::of_layout).collect();
        let described = DescribedImage { manifest: bytes, config, layers, files };
        self.take_in_background(staging, described, reference.clone()).await
    }

    /// Imports the image on a blocking thread, because unpacking would block the runtime.
    async fn take_in_background(
        &self,
        staging: Staging,
        image: DescribedImage,
        reference: Reference,
    ) -> Result<Image, ImageError> {
        let store = self.clone();
        let work = move || store.take_described(&staging, &image, &reference);
        tokio::task::spawn_blocking(work).await.map_err(|_| ImageError::GivenUp)?
    }
}

/// Fetches the manifest of `reference` for this host, following nested indexes.
async fn find(registry: &Registry, reference: &Reference) -> Result<(Vec<u8>, Manifest), ImageError> {
    let mut bytes = registry.manifest(reference).await?;
    for _ in 0..MAX_INDEXES {
        match Document::parse(&bytes)? {
            Document::Manifest(manifest) => return Ok((bytes, manifest)),
            Document::Index(index) => {
                let digest = choose(&index.manifests)?.digest;
                bytes = registry.manifest(&reference.clone_with_digest(digest.to_string())).await?;
            }
        }
    }
    Err(ImageError::Contradiction("the chain of indexes is too long"))
}
