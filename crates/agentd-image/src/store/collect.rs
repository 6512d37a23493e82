//! Takes away what nothing leads to.

use super::{About, Staging, Store, index::Index};
use crate::{
    digest::Digest,
    error::{Doing as _, ImageError},
};
use agentd_disk::{Lock, entries};
use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

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
    /// Removes the layers, manifests and configurations that no reference, no hold and no import needs, and nobody outside: `others` gives the
    /// trees ([`crate::Image::layers`]) that are in use by what is not in the store. It is asked after the holds were looked at, so that
    /// whoever holds an image until its use is written down loses nothing.
    ///
    /// Others may use the store meanwhile: under the lock things are only moved away, and removed after.
    ///
    /// # Errors
    /// Besides the store's own, that of `others`; nothing was removed then.
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
            // A layer that cannot say how big it is goes all the same.
            collected.bytes += About::read(&path).ok().and_then(Result::ok).map_or(0, |about| about.bytes);
            collected.layers += 1;
            let moved = bin.path().join(collected.layers.to_string());
            fs::rename(&path, &moved).doing("move away", &path)?;
        }
        for path in entries(&self.blobs())? {
            if !digest(&path).is_some_and(|digest| blobs.contains(&digest)) {
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
        let mut layers: HashSet<_> =
            agentd_disk::pinned(&self.staging(), lock)?.iter().filter_map(|hex| Digest::from_hex(hex)).collect();
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

/// The digest that a layer or a blob is named by.
fn digest(path: &Path) -> Option<Digest> {
    path.file_name().and_then(|name| name.to_str()).and_then(Digest::from_hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody() -> Result<Vec<PathBuf>, ImageError> {
        Ok(Vec::new())
    }

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
        assert_eq!(store.gc(nobody).unwrap().layers, 0);
        assert!(store.layer(layer).exists());

        drop(import);
        assert_eq!(store.gc(nobody).unwrap().layers, 1);
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
