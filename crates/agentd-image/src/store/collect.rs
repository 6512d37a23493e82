//! Takes away what nothing leads to.

use super::{
    About, Staging, Store,
    index::Index,
    lock::Lock,
    staging::{self, entries},
};
use crate::{
    digest::Digest,
    error::{Doing as _, ImageError},
};
use std::{collections::HashSet, fs};

/// What was taken away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Layers.
    pub layers: usize,
    /// Manifests and configurations.
    pub blobs: usize,
    /// Bytes of the files in these layers.
    pub bytes: u64,
}

impl Store {
    /// Removes the layers, manifests and configurations that no reference, no hold and no import needs. Others may use the store
    /// meanwhile: under the lock things are only moved away, and removed after.
    pub fn gc(&self) -> Result<Collected, ImageError> {
        let lock = self.lock()?;
        let (layers, blobs) = self.needed(&lock)?;
        let bin = Staging::make(&self.staging(), &lock)?;
        let mut collected = Collected::default();
        for path in entries(&self.layers())? {
            if named_by_one_of(&path, &layers) {
                continue;
            }
            // A layer that cannot say how big it is goes all the same.
            collected.bytes += About::read(&path).ok().and_then(Result::ok).map_or(0, |about| about.bytes);
            collected.layers += 1;
            let moved = bin.path().join(collected.layers.to_string());
            fs::rename(&path, &moved).doing("move away", &path)?;
        }
        for path in entries(&self.blobs())? {
            if !named_by_one_of(&path, &blobs) {
                fs::remove_file(&path).doing("remove", &path)?;
                collected.blobs += 1;
            }
        }
        drop(lock);
        bin.remove()?;
        Ok(collected)
    }

    /// The layers and the blobs that something needs.
    fn needed(&self, lock: &Lock) -> Result<(HashSet<Digest>, HashSet<Digest>), ImageError> {
        let mut layers: HashSet<_> = staging::pinned(&self.staging(), lock)?.into_iter().collect();
        let mut blobs = HashSet::new();
        for (reference, digest) in Index::read(&self.root)?.iter() {
            // An image that cannot be read ends the collection: what it needs is not known.
            let (manifest, config) = self.described(reference, digest)?;
            blobs.extend([digest, manifest.config.digest]);
            layers.extend(config.rootfs.diff_ids);
        }
        Ok((layers, blobs))
    }
}

fn named_by_one_of(path: &std::path::Path, needed: &HashSet<Digest>) -> bool {
    path.file_name().and_then(|name| name.to_str()).and_then(Digest::from_hex).is_some_and(|digest| needed.contains(&digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(&place.path().join("store")).unwrap();
        (place, store)
    }

    #[test]
    fn what_a_live_import_has_looked_for_stays() {
        let (_place, store) = store();
        let layer = Digest::of(b"layer");
        let import = store.stage().unwrap();
        fs::create_dir(store.layer(layer)).unwrap();
        assert!(store.pin(&import, layer).unwrap());
        assert_eq!(store.gc().unwrap().layers, 0);
        assert!(store.layer(layer).exists());

        drop(import);
        assert_eq!(store.gc().unwrap().layers, 1);
        assert!(!store.layer(layer).exists());
    }

    #[test]
    fn opening_a_store_removes_what_the_dead_left_and_nothing_of_the_living() {
        let (_place, store) = store();
        let live = store.stage().unwrap();
        let dead = store.staging().join("0123456789abcdef");
        fs::create_dir_all(dead.join("pins")).unwrap();
        Store::open(&store.root).unwrap();
        assert!(live.path().exists() && !dead.exists());
    }
}
