//! Manifests and configurations, each a file named by its digest.

use super::durable;
use crate::{
    digest::Digest,
    error::{Damage, ImageError},
};
use std::path::Path;

pub(super) fn write(blobs: &Path, staging: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    let path = blobs.join(Digest::of(bytes).hex());
    // The same name is the same content; but what a failing disk made of it may as well be mended.
    durable::write(&path, bytes, staging)
}

/// The content of a blob, or what became of it.
pub(super) fn read(blobs: &Path, digest: Digest) -> Result<Result<Vec<u8>, Damage>, ImageError> {
    let Some(bytes) = durable::read(&blobs.join(digest.hex()))? else { return Ok(Err(Damage::Lost)) };
    let actual = Digest::of(&bytes);
    Ok(if actual == digest { Ok(bytes) } else { Err(Damage::Changed(actual)) })
}
