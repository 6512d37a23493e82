//! Manifests and configurations, each a file named by its digest.

use super::durable;
use crate::{
    digest::Digest,
    error::{Doing as _, ImageError},
};
use std::{fs, io, path::Path};

pub(super) fn write(blobs: &Path, staging: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    let path = blobs.join(Digest::of(bytes).hex());
    // The same name is the same content; but what a failing disk made of it may as well be mended.
    durable::write(&path, bytes, staging)
}

/// The content of a blob; `None` when it is not there.
pub(super) fn read(blobs: &Path, digest: Digest) -> Result<Option<Vec<u8>>, ImageError> {
    let path = blobs.join(digest.hex());
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).doing("read", path),
    };
    let actual = Digest::of(&bytes);
    if actual == digest {
        Ok(Some(bytes))
    } else {
        Err(ImageError::Digest { what: "a document in the store", expected: digest, actual })
    }
}
