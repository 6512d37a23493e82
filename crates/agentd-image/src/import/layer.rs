//! One layer on its way into the store: hashed as it lies, decompressed, hashed again, unpacked into the staging directory.

use crate::{
    digest::{Digest, Hashing},
    error::{Doing as _, ImageError},
    manifest::Descriptor,
    store::Staging,
    unpack::{Bounds, Ownership, UnpackError, Unpacked, decompress, unpack},
};
use std::{fs::File, io::Read, os::fd::AsFd};

/// A layer that was unpacked.
pub(super) struct Done {
    /// The digest of its plain tar stream.
    pub(super) diff_id: Digest,
    /// The length of that stream.
    pub(super) size: u64,
    pub(super) about: Unpacked,
}

/// What is known of a layer before it is unpacked.
pub(super) struct Expected<'a> {
    /// Its name in the source, for errors.
    pub(super) name: &'a str,
    /// The most it may be.
    pub(super) bounds: &'a Bounds,
    /// What it must be as it lies in the source.
    pub(super) blob: Option<&'a Descriptor>,
    /// What it must be when unpacked.
    pub(super) diff_id: Option<Digest>,
}

/// Unpacks a layer. It is checked when all of it was read: until then it is in the staging directory, and goes with it.
pub(super) fn take_in(
    staging: &Staging,
    ownership: Ownership,
    blob: impl Read,
    expected: &Expected<'_>,
) -> Result<Done, ImageError> {
    let failed = |source| ImageError::Layer { layer: expected.name.to_owned(), source };
    let stream = |error| failed(UnpackError::from_stream(error));
    let bounds = expected.bounds;
    let tree = staging.begin_layer()?;
    let root = File::open(&tree).doing("open", &tree)?;

    let most = expected.blob.map_or(u64::MAX, |descriptor| descriptor.size);
    let mut packed = Hashing::new(blob.take(most));
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
    Ok(Done { diff_id, size, about })
}

impl<'a> Expected<'a> {
    /// Of a layer that nothing described.
    pub(super) fn nothing(name: &'a str, bounds: &'a Bounds) -> Self {
        Self { name, bounds, blob: None, diff_id: None }
    }
}

impl Done {
    /// Keeps it, for the time being where it was staged.
    pub(super) fn keep(&self, staging: &Staging) -> Result<(), ImageError> {
        staging.end_layer(self.diff_id, &self.about)
    }
}

fn check(what: &'static str, expected: Digest, actual: Digest) -> Result<(), ImageError> {
    if expected == actual { Ok(()) } else { Err(ImageError::Digest { what, expected, actual }) }
}
