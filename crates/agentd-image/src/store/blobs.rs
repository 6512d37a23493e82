//! Manifests and configurations, each a file named by its digest.

use crate::{
    digest::Digest,
    error::{Damage, ImageError},
};
use std::path::Path;

pub(super) fn write(blobs: &Path, draft: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    let path = blobs.join(Digest::compute(bytes).hex());
    // An existing blob has the same content, but rewriting it repairs damage from a failing disk.
    Ok(agentd_disk::write(&path, bytes, draft)?)
}

/// Reads a blob and verifies its digest.
pub(super) fn read(blobs: &Path, digest: Digest) -> Result<Result<Vec<u8>, Damage>, ImageError> {
    let Some(bytes) = agentd_disk::read(&blobs.join(digest.hex()))? else { return Ok(Err(Damage::Lost)) };
    let actual = Digest::compute(&bytes);
    Ok(if actual == digest { Ok(bytes) } else { Err(Damage::Changed(actual)) })
}
