//! `images.json`, which maps each reference to the digest of its manifest.

use crate::{digest::Digest, error::ImageError};
use agentd_disk::FileContext as _;
use oci_client::Reference;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path};

const NAME: &str = "images.json";

/// References and the digests of their manifests. Reading needs no lock, because the file is replaced atomically. Changes need
/// the lock.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Index {
    /// Prevents a store of a later version from being read in this format.
    version: Version,
    images: BTreeMap<String, Digest>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
enum Version {
    #[default]
    #[serde(rename = "1")]
    One,
}

impl Index {
    pub(super) fn read(root: &Path) -> Result<Self, ImageError> {
        let path = root.join(NAME);
        let Some(bytes) = agentd_disk::read(&path)? else { return Ok(Self::default()) };
        serde_json::from_slice(&bytes).map_err(|source| ImageError::Index { path, source })
    }

    pub(super) fn write(&self, root: &Path, draft: &Path) -> Result<(), ImageError> {
        let path = root.join(NAME);
        let bytes = serde_json::to_vec_pretty(self).during("write", &path)?;
        agentd_disk::write(&path, &bytes, draft)?;
        Ok(agentd_disk::flush_directory(root)?)
    }

    pub(super) fn get(&self, reference: &Reference) -> Option<Digest> {
        self.images.get(&reference.whole()).copied()
    }

    pub(super) fn set(&mut self, reference: &Reference, digest: Digest) {
        self.images.insert(reference.whole(), digest);
    }

    pub(super) fn remove(&mut self, reference: &Reference) -> bool {
        self.images.remove(&reference.whole()).is_some()
    }

    /// Returns every reference with the digest of its manifest.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Digest)> {
        self.images.iter().map(|(reference, digest)| (reference.as_str(), *digest))
    }
}

impl IntoIterator for Index {
    type Item = (Reference, Digest);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        let known = |(text, digest): (String, Digest)| text.parse().ok().map(|reference| (reference, digest));
        self.images.into_iter().filter_map(known).collect::<Vec<_>>().into_iter()
    }
}
