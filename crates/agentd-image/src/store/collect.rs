//! Garbage collection: removes layers and blobs that nothing refers to.

use super::{LayerStatistics, Staging, Store, index::Index};
use crate::{digest::Digest, error::ImageError};
use agentd_disk::{FileContext as _, Lock, entries};
use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

/// The result of a collection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Number of layers removed.
    pub layers: usize,
    /// Number of manifests and configurations removed.
    pub blobs: usize,
    /// Total size of the files in these layers, in bytes.
    pub bytes: u64,
}

impl Store {
    /// Removes the layers, manifests and configurations that no reference, hold, import or outside user needs. `others` returns
    /// the trees ([`crate::Image::layers`]) that users outside the store need. `others` is called after the holds were read. An
    /// image that is held until its use is recorded therefore loses nothing.
    ///
    /// The store remains usable during the collection: layers are only moved away under the lock, and deleted afterwards.
    ///
    /// # Errors
    /// An error of the store, or of `others`; an error of `others` means that nothing was removed.
    pub fn gc<E: From<ImageError>>(&self, others: impl FnOnce() -> Result<Vec<PathBuf>, E>) -> Result<Collected, E> {
        let lock = self.lock()?;
        let (mut layers, blobs) = self.needed(&lock)?;
        layers.extend(others()?.iter().filter_map(|tree| tree.parent()).filter_map(digest));
        Ok(self.sweep(lock, &layers, &blobs)?)
    }

    fn sweep(&self, lock: Lock, layers: &HashSet<Digest>, blobs: &HashSet<Digest>) -> Result<Collected, ImageError> {
        let bin = Staging::make(&self.staging(), &lock)?;
        let mut collected = Collected::default();
        for path in entries(&self.layers())? {
            if digest(&path).is_some_and(|digest| layers.contains(&digest)) {
                continue;
            }
            // A layer whose size cannot be read is removed as well.
            collected.bytes += LayerStatistics::read(&path).ok().and_then(Result::ok).map_or(0, |about| about.bytes);
            collected.layers += 1;
            let moved = bin.path().join(collected.layers.to_string());
            fs::rename(&path, &moved).during("move to staging", &path)?;
        }
        for path in entries(&self.blobs())? {
            if !digest(&path).is_some_and(|digest| blobs.contains(&digest)) {
                fs::remove_file(&path).during("remove", &path)?;
                collected.blobs += 1;
            }
        }
        drop(lock);
        bin.remove()?;
        Ok(collected)
    }

    /// Returns the layers and blobs that pins and references need.
    fn needed(&self, lock: &Lock) -> Result<(HashSet<Digest>, HashSet<Digest>), ImageError> {
        let mut layers: HashSet<_> =
            agentd_disk::pinned(&self.staging(), lock)?.iter().filter_map(|hex| Digest::from_hex(hex)).collect();
        let mut blobs = HashSet::new();
        for (reference, digest) in Index::read(&self.root)?.iter() {
            // An unreadable image aborts the collection, because its needs are unknown.
            let (manifest, config) = self.described(reference, digest)?;
            blobs.extend([digest, manifest.config.digest]);
            layers.extend(config.rootfs.diff_ids);
        }
        Ok((layers, blobs))
    }
}

/// Returns the digest in the name of a layer's directory or of a blob.
fn digest(path: &Path) -> Option<Digest> {
    path.file_name().and_then(|name| name.to_str()).and_then(Digest::from_hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_users() -> Result<Vec<PathBuf>, ImageError> {
        Ok(Vec::new())
    }

    fn store() -> (tempfile::TempDir, Store) {
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(&place.path().join("store")).unwrap();
        (place, store)
    }

    #[test]
    fn layer_pinned_by_live_import_is_not_collected() {
        let (_place, store) = store();
        let layer = Digest::compute(b"layer");
        let import = store.stage().unwrap();
        fs::create_dir(store.layer(layer)).unwrap();
        assert!(store.pin(&import, layer).unwrap());
        assert_eq!(store.gc(no_users).unwrap().layers, 0);
        assert!(store.layer(layer).exists());

        drop(import);
        assert_eq!(store.gc(no_users).unwrap().layers, 1);
        assert!(!store.layer(layer).exists());
    }

    #[test]
    fn opening_store_removes_staging_of_dead_processes_only() {
        let (_place, store) = store();
        let live = store.stage().unwrap();
        let dead = store.staging().join("0123456789abcdef");
        fs::create_dir_all(dead.join("pins")).unwrap();
        Store::open(&store.root).unwrap();
        assert!(live.path().exists() && !dead.exists());
    }
}
