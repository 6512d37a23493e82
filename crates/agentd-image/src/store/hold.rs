//! Holds protect layers from collection while something outside the store uses them, such as the mounts of a sandbox. A hold is a
//! staging directory that contains only pins. Like those of an import, its pins count until it is dropped or its process dies.

use super::{Staging, Store};
use crate::{digest::Digest, error::ImageError, image::Image};
use std::path::Path;

/// Protects the layers of an image from collection, until it is dropped or its process dies.
#[derive(Debug)]
pub struct Hold(#[expect(dead_code, reason = "owned only for its pins, which are dropped with the value")] Staging);

impl Store {
    /// Protects the layers of `image` from collection, even if its reference is removed.
    ///
    /// # Errors
    /// [`ImageError::Gone`] if a layer was collected since the image was looked up.
    pub fn hold(&self, image: &Image) -> Result<Hold, ImageError> {
        let lock = self.lock()?;
        let staging = Staging::make(&self.staging(), &lock)?;
        for tree in &image.layers {
            // Checked under the lock: a layer that exists now is kept.
            staging.pin(self.present(image, tree)?, &lock)?;
        }
        Ok(Hold(staging))
    }

    /// Returns the layer to which a tree belongs, or [`ImageError::Gone`] if it was collected since the image was looked up.
    fn present(&self, image: &Image, tree: &Path) -> Result<Digest, ImageError> {
        let gone = || ImageError::Gone { reference: image.reference.clone() };
        let hex = tree.parent().and_then(Path::file_name).and_then(|name| name.to_str()).ok_or_else(gone)?;
        Digest::from_hex(hex).filter(|digest| self.layer(*digest).exists()).ok_or_else(gone)
    }
}
