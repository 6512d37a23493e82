//! Manifests and configurations, each a file named by its digest.

use crate::{
    digest::Digest,
    error::{Damage, ImageError},
};
use std::path::Path;

pub(super) fn write(blobs: &Path, draft: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    let path = blobs.join(Digest::of(bytes).hex());
    // The same name is the same content; but what a failing disk made of it may as well be mended.
    Ok(agentd_disk::write(&path, bytes, draft)?)
}

/// The content of a blob, or what became of it.
pub(super) fn read(blobs: &Path, digest: Digest) -> Result<Result<Vec<u8>, Damage>, ImageError> {
    let Some(bytes) = agentd_disk::read(&blobs.join(digest.hex()))? else { return Ok(Err(Damage::Lost)) };
    let actual = Digest::of(&bytes);
    Ok(if actual == digest { Ok(bytes) } else { Err(Damage::Changed(actual)) })
}
