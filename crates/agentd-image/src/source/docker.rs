//! Archives of `docker save`, as Docker before version 25 and `podman save` write them: `manifest.json`, a configuration, and
//! each layer as an uncompressed tar file. They contain no OCI manifest, so this module creates one.

use super::{DescribedImage, Files, Layer};
use crate::{
    digest::Digest,
    error::ImageError,
    manifest::{Config, Descriptor, LAYER, Manifest},
};
use oci_client::Reference;
use serde::Deserialize;

/// The entry of one image in `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Returns the images of an archive; `None` if `manifest.json` is missing or has another format. The archive of a file system may
/// contain an unrelated `/manifest.json`.
pub(super) fn list(files: &Files) -> Result<Option<Vec<Saved>>, ImageError> {
    Ok(files.document("manifest.json")?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// Describes the image that matches `reference`, or the only image.
pub(super) fn describe(files: Files, saved: Vec<Saved>, reference: &Reference) -> Result<DescribedImage, ImageError> {
    let saved = select(saved, reference)?;
    let config = files.document(&saved.config)?.ok_or_else(|| ImageError::Missing { part: saved.config.clone() })?;
    // The configuration file is named by its digest.
    let named = saved.config.rsplit('/').next().map(|name| name.trim_end_matches(".json")).and_then(Digest::from_hex);
    match (named, Digest::compute(&config)) {
        (Some(expected), actual) if expected != actual => {
            return Err(ImageError::Digest { what: "the configuration", expected, actual });
        }
        _ => {}
    }
    // Only the configuration declares the digests of the layers.
    let diff_ids = Config::parse(&config, saved.layers.len())?.rootfs.diff_ids;
    let mut descriptors = Vec::new();
    for (name, diff_id) in saved.layers.iter().zip(diff_ids) {
        let layer = files.open(name)?.ok_or_else(|| ImageError::Missing { part: name.clone() })?;
        descriptors.push(Descriptor::new(LAYER, diff_id, layer.size));
    }
    let manifest = serde_json::to_vec(&Manifest::new(&config, descriptors))
        .map_err(|source| ImageError::Metadata { what: "the manifest", source })?;
    let layers = saved.layers.into_iter().map(|name| Layer { name, descriptor: None }).collect();
    Ok(DescribedImage { manifest, config, layers, files })
}

fn select(mut saved: Vec<Saved>, reference: &Reference) -> Result<Saved, ImageError> {
    let wanted = |tag: &String| tag.parse::<Reference>().is_ok_and(|tag| tag == *reference);
    if let Some(at) = saved.iter().position(|one| one.repo_tags.iter().flatten().any(wanted)) {
        return Ok(saved.swap_remove(at));
    }
    match (saved.pop(), saved.len()) {
        (Some(only), 0) => Ok(only),
        (None, _) => Err(ImageError::Contradiction("manifest.json lists no image")),
        (Some(last), _) => Err(ImageError::Ambiguous {
            names: saved.into_iter().chain([last]).filter_map(|one| one.repo_tags).flatten().collect(),
        }),
    }
}
