//! Stages one layer: hashes the stored blob, decompresses it, hashes the plain stream and unpacks that into the staging
//! directory.

use crate::{
    digest::{Digest, Hashing},
    error::ImageError,
    manifest::Descriptor,
    store::Staging,
    unpack::{Bounds, Ownership, UnpackError, Unpacked, decompress, unpack},
};
use agentd_disk::FileContext as _;
use std::{fs::File, io::Read, os::fd::AsFd};

/// An unpacked layer.
pub(super) struct UnpackedLayer {
    /// The digest of the plain tar stream.
    pub(super) diff_id: Digest,
    /// The length of that stream, in bytes.
    pub(super) size: u64,
    pub(super) about: Unpacked,
}

/// The expected properties of a layer.
pub(super) struct Expected<'a> {
    /// The name of the layer in the source, for errors.
    pub(super) name: &'a str,
    /// The size limits for unpacking.
    pub(super) bounds: &'a Bounds,
    /// The expected digest and size of the stored blob, if known.
    pub(super) blob: Option<&'a Descriptor>,
    /// The expected digest of the plain tar stream, if known.
    pub(super) diff_id: Option<Digest>,
}

/// Unpacks a layer into the staging directory. The digests are checked only after the whole layer was read; a layer that fails is
/// removed with the staging directory.
pub(super) fn take_in(
    staging: &Staging,
    ownership: Ownership,
    blob: impl Read,
    expected: &Expected<'_>,
) -> Result<UnpackedLayer, ImageError> {
    let failed = |source| ImageError::Layer { layer: expected.name.to_owned(), source };
    let stream = |error| failed(UnpackError::from_stream(error));
    let bounds = expected.bounds;
    let tree = staging.begin_layer()?;
    let root = File::open(&tree).during("open", &tree)?;

    let max = expected.blob.map_or(u64::MAX, |descriptor| descriptor.size);
    let mut packed = Hashing::new(blob.take(max));
    let mut plain = Hashing::new(decompress(&mut packed, bounds).map_err(stream)?);
    let about = unpack(&mut plain, root.as_fd(), ownership, bounds).map_err(failed)?;
    plain.drain().map_err(stream)?;
    let (diff_id, size) = plain.finish();
    packed.drain().map_err(stream)?;
    let (packed, _) = packed.finish();

    if let Some(descriptor) = expected.blob {
        check("a layer", descriptor.digest, packed)?;
    }
    if let Some(expected) = expected.diff_id {
        check("an unpacked layer", expected, diff_id)?;
    }
    Ok(UnpackedLayer { diff_id, size, about })
}

impl<'a> Expected<'a> {
    /// Creates the expectations for a layer without known digests.
    pub(super) fn nothing(name: &'a str, bounds: &'a Bounds) -> Self {
        Self { name, bounds, blob: None, diff_id: None }
    }
}

impl UnpackedLayer {
    /// Records the layer in the staging directory under its digest.
    pub(super) fn keep(&self, staging: &Staging) -> Result<(), ImageError> {
        staging.end_layer(self.diff_id, &self.about)
    }
}

fn check(what: &'static str, expected: Digest, actual: Digest) -> Result<(), ImageError> {
    if expected == actual { Ok(()) } else { Err(ImageError::Digest { what, expected, actual }) }
}
