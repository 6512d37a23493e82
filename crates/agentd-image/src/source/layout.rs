//! OCI image layouts (`oci-layout`, `index.json`, `blobs/`) in a directory or an archive, as written by `skopeo`, `buildah`,
//! `docker buildx` and newer versions of `docker save`.

use super::{DescribedImage, Files, Layer};
use crate::{
    error::ImageError,
    manifest::{self, Descriptor, Document, Index, MAX_INDEXES, Manifest, choose},
};
use oci_client::Reference;
use std::collections::BTreeSet;

/// The annotations that contain the names of images.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// Describes the image that matches `reference`, or the only image.
pub(super) fn describe(files: Files, reference: &Reference) -> Result<DescribedImage, ImageError> {
    let index = files.document("index.json")?.ok_or_else(|| ImageError::Missing { part: "index.json".into() })?;
    let index: Index = manifest::parse("index.json", &index)?;
    let mut chosen = select(&index.manifests, reference)?.clone();
    for _ in 0..MAX_INDEXES {
        let bytes = files.described("the manifest", &chosen)?;
        match Document::parse(&bytes)? {
            Document::Index(index) => chosen = choose(&index.manifests)?.clone(),
            Document::Manifest(manifest) => return of_manifest(files, bytes, manifest),
        }
    }
    Err(ImageError::Contradiction("the chain of indexes is too long"))
}

fn of_manifest(files: Files, bytes: Vec<u8>, manifest: Manifest) -> Result<DescribedImage, ImageError> {
    let config = files.described("the configuration", &manifest.config)?;
    let layers = manifest.layers.into_iter().map(Layer::of_layout).collect();
    Ok(DescribedImage { manifest: bytes, config, layers, files })
}

/// Selects an image of a layout: the one that matches `reference`, or, if there is at most one name, the one for this host.
fn select<'a>(manifests: &'a [Descriptor], reference: &Reference) -> Result<&'a Descriptor, ImageError> {
    let tag = reference.tag().unwrap_or_default();
    let wanted = |name: &str| name == tag || name.parse::<Reference>().is_ok_and(|name| name == *reference);
    let named: Vec<_> = manifests.iter().filter(|one| names(one).any(wanted)).cloned().collect();
    let candidates = if named.is_empty() { manifests } else { &named };
    let all: BTreeSet<_> = candidates.iter().filter_map(|one| names(one).next()).collect();
    if named.is_empty() && all.len() > 1 {
        return Err(ImageError::Ambiguous { names: all.into_iter().map(str::to_owned).collect() });
    }
    let digest = choose(candidates)?.digest;
    manifests.iter().find(|one| one.digest == digest).ok_or(ImageError::Contradiction("the index lists no image"))
}

fn names(descriptor: &Descriptor) -> impl Iterator<Item = &str> {
    NAMES.iter().filter_map(|key| descriptor.annotations.get(*key)).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{digest::Digest, manifest::MANIFEST};

    fn named(name: &str) -> Descriptor {
        let mut descriptor = Descriptor::new(MANIFEST, Digest::compute(name.as_bytes()), 1);
        descriptor.annotations.insert(NAMES[1].into(), name.into());
        descriptor
    }

    #[test]
    fn layout_with_several_images_selects_the_named_one() {
        let all = [named("1.0"), named("example.org/b:2.0")];
        let select = |reference: &str| select(&all, &reference.parse().unwrap()).map(|one| one.digest);
        assert_eq!(select("a:1.0").unwrap(), all[0].digest);
        assert_eq!(select("example.org/b:2.0").unwrap(), all[1].digest);
        assert!(matches!(select("c:3.0"), Err(ImageError::Ambiguous { names }) if names == ["1.0", "example.org/b:2.0"]));
    }
}
