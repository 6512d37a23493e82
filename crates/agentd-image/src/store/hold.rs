//! Holds: what keeps layers from being collected while something outside the store uses them, such as the mounts of a sandbox. A hold
//! is a staging directory in which nothing is made: its pins count until it is dropped or its process dies, like those of an import.

use super::{Staging, Store};
use crate::{digest::Digest, error::ImageError, image::Image};
use std::path::Path;

/// Keeps the layers of an image, until it is dropped or its process dies.
#[derive(Debug)]
pub struct Hold(#[expect(dead_code, reason = "held, not used: its pins go with it")] Staging);

impl Store {
    /// Keeps the layers of `image` from being collected, also when its reference is removed.
    pub fn hold(&self, image: &Image) -> Result<Hold, ImageError> {
        let lock = self.lock()?;
        let staging = Staging::make(&self.staging(), &lock)?;
        for tree in &image.layers {
            // Under the lock: what is there now stays.
            staging.pin(self.present(image, tree)?, &lock)?;
        }
        Ok(Hold(staging))
    }

    /// The layer that a tree belongs to, which may have been collected since the image was found.
    fn present(&self, image: &Image, tree: &Path) -> Result<Digest, ImageError> {
        let gone = || ImageError::Gone { reference: image.reference.clone() };
        let hex = tree.parent().and_then(Path::file_name).and_then(|name| name.to_str()).ok_or_else(gone)?;
        Digest::from_hex(hex).filter(|digest| self.layer(*digest).exists()).ok_or_else(gone)
    }
}
