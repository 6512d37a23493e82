//! Imports an image into the store: detects the type of the source, stages the layers that the store lacks, then commits them as
//! an image in one step.

mod layer;

use crate::{
    digest::Digest,
    error::ImageError,
    image::Image,
    manifest::{Config, Descriptor, LAYER, Manifest},
    source::{DescribedImage, Source, write_directory},
    store::{Staging, Store},
    unpack::Bounds,
};
use agentd_disk::FileContext as _;
use layer::{Expected, UnpackedLayer, take_in};
use oci_client::Reference;
use std::{fs::File, io, path::Path, thread};

impl Store {
    /// Imports the image at `source` as `reference`. The source is an OCI image layout (a directory or an archive), an archive of
    /// `docker save`, or a file system (`.tar`, `.tar.gz`, `.tar.zst` or a directory). If the source contains several images, the
    /// one that matches `reference` is imported. The reference must not have a digest, because a caller that runs an image by
    /// digest relies on exactly that content.
    ///
    /// # Errors
    /// [`ImageError`] if the source cannot be read, is not an image, or fails a digest check.
    pub fn import(&self, source: &Path, reference: &Reference) -> Result<Image, ImageError> {
        if reference.digest().is_some() {
            return Err(ImageError::NamedByDigest { reference: reference.clone() });
        }
        let staging = self.stage()?;
        match Source::detect(source, reference, staging.path())? {
            Source::Described(described) => self.take_described(&staging, &described, reference),
            Source::Tar(file) => {
                let layer =
                    take_in(&staging, self.ownership(), file, &Expected::nothing("from the archive", &Bounds::default()))?;
                self.take_tree(&staging, &layer, reference)
            }
            Source::Directory(directory) => {
                let layer = self.take_directory(&staging, &directory, source)?;
                self.take_tree(&staging, &layer, reference)
            }
        }
    }

    /// Imports an image with known digests. Layers that the store already has are not read from the source.
    pub(crate) fn take_described(
        &self,
        staging: &Staging,
        image: &DescribedImage,
        reference: &Reference,
    ) -> Result<Image, ImageError> {
        let config = Config::parse(&image.config, image.layers.len())?;
        // The bounds of a layer also limit the sum of all layers.
        let mut bounds = Bounds::default();
        for (layer, diff_id) in image.layers.iter().zip(config.rootfs.diff_ids) {
            if self.pin(staging, diff_id)? || staging.layer(diff_id).exists() {
                continue;
            }
            let blob = image.files.open(&layer.name)?.ok_or_else(|| ImageError::Missing { part: layer.name.clone() })?;
            let expected =
                Expected { name: &layer.name, bounds: &bounds, blob: layer.descriptor.as_ref(), diff_id: Some(diff_id) };
            let done = take_in(staging, self.ownership(), blob.content, &expected)?;
            done.keep(staging)?;
            bounds.total = bounds.total.saturating_sub(done.size);
            bounds.entries = bounds.entries.saturating_sub(done.about.entries);
        }
        self.commit(staging, reference, &image.manifest, &image.config)
    }

    /// Creates an image of a single layer, for a source without a manifest.
    fn take_tree(&self, staging: &Staging, layer: &UnpackedLayer, reference: &Reference) -> Result<Image, ImageError> {
        self.pin(staging, layer.diff_id)?;
        layer.keep(staging)?;
        let (manifest, config) = describe(layer.diff_id, layer.size)?;
        self.commit(staging, reference, &manifest, &config)
    }

    /// Imports a directory: a second thread writes it as a tar stream, and this thread unpacks the stream.
    fn take_directory(&self, staging: &Staging, directory: &File, path: &Path) -> Result<UnpackedLayer, ImageError> {
        let (from, to) = io::pipe().during("read", path)?;
        let (written, taken) = thread::scope(|scope| {
            let writer = scope.spawn(move || write_directory(directory, io::BufWriter::with_capacity(64 << 10, to)));
            let taken = take_in(staging, self.ownership(), from, &Expected::nothing("from the directory", &Bounds::default()));
            (writer.join(), taken)
        });
        match written.map_err(|_| ImageError::GivenUp)? {
            // The reader has failed and returns the cause.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            other => other.during("read", path)?,
        }
        taken
    }
}

/// Creates the manifest and configuration of a bare file system.
fn describe(diff_id: Digest, size: u64) -> Result<(Vec<u8>, Vec<u8>), ImageError> {
    let json = |source| ImageError::Metadata { what: "the manifest", source };
    let config = serde_json::to_vec(&Config::of_tree(vec![diff_id])).map_err(json)?;
    let manifest = Manifest::new(&config, vec![Descriptor::new(LAYER, diff_id, size)]);
    Ok((serde_json::to_vec(&manifest).map_err(json)?, config))
}
