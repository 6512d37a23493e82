//! The JSON documents of images: index, manifest and configuration of the OCI image specification. Docker's formats differ only
//! in their media types. Unknown fields are ignored, as the specification requires.

use crate::{digest::Digest, error::ImageError};
use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use std::collections::BTreeMap;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Maximum number of documents in a chain of indexes, the final manifest included. A longer chain is a loop or hostile.
pub(crate) const MAX_INDEXES: usize = 4;
/// Maximum size of one document, in bytes (8 MiB); registries refuse manifests above 4 MiB. A longer document is not read into
/// memory, except a registry's manifest (see `pull::registry`).
pub(crate) const MAX_DOCUMENT_BYTES: u64 = 8 << 20;
/// Maximum number of layers of one image; overlayfs stacks no more than 500.
const MAX_LAYERS: usize = 500;

/// A reference to content by its digest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.into(), digest, size, platform: None, annotations: BTreeMap::new() }
    }
}

/// The operating system and architecture for which an image is built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    pub(crate) os: String,
    pub(crate) architecture: String,
}

impl Platform {
    /// Returns the platform of this host.
    pub(crate) fn here() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { os: "linux".into(), architecture: architecture.into() }
    }

    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.os, self.architecture)
    }
}

/// A list of images.
#[derive(Debug, Deserialize)]
pub(crate) struct Index {
    pub(crate) manifests: Vec<Descriptor>,
}

/// The configuration and layers of one image.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) media_type: Option<String>,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// The configuration of an image: its platform, its run configuration and the digests of its unpacked layers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Config {
    pub(crate) os: String,
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) config: Option<Run>,
    pub(crate) rootfs: RootFs,
}

/// The run configuration of an image.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Run {
    pub(crate) user: Option<String>,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) cmd: Option<Vec<String>>,
    pub(crate) working_dir: Option<String>,
}

/// The layers, bottom first, as the digests of their uncompressed tar streams.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RootFs {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) diff_ids: Vec<Digest>,
}

/// Parses one document. `what` names the document in errors.
pub(crate) fn parse<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|source| ImageError::Metadata { what, source })
}

impl Config {
    /// Parses the configuration of an image with `layers` layers, and checks that the image is built for this host.
    pub(crate) fn parse(bytes: &[u8], layers: usize) -> Result<Self, ImageError> {
        let config: Self = parse("the configuration", bytes)?;
        if config.rootfs.diff_ids.len() != layers {
            return Err(ImageError::Contradiction("configuration and manifest have different numbers of layers"));
        }
        if layers == 0 {
            return Err(ImageError::Contradiction("the image has no layers"));
        }
        if layers > MAX_LAYERS {
            return Err(ImageError::Contradiction("the image has more than 500 layers, the maximum that can be mounted"));
        }
        let made_for = Platform { os: config.os.clone(), architecture: config.architecture.clone() };
        if made_for != Platform::here() {
            return Err(ImageError::Platform { wanted: Platform::here().name(), offered: vec![made_for.name()] });
        }
        Ok(config)
    }

    /// Creates the configuration of a bare file system, without a run configuration.
    pub(crate) fn of_tree(diff_ids: Vec<Digest>) -> Self {
        let Platform { os, architecture } = Platform::here();
        Self { os, architecture, config: None, rootfs: RootFs { kind: "layers".into(), diff_ids } }
    }
}

impl Manifest {
    pub(crate) fn new(config: &[u8], layers: Vec<Descriptor>) -> Self {
        let config = Descriptor::new(CONFIG, Digest::compute(config), config.len() as u64);
        Self { schema_version: 2, media_type: Some(MANIFEST.into()), config, layers }
    }
}

/// Selects the manifest of an index that is built for this host.
pub(crate) fn choose(manifests: &[Descriptor]) -> Result<&Descriptor, ImageError> {
    let here = Platform::here();
    // An entry without a platform may fit; the platform is checked when its configuration is parsed.
    let fits = |one: &&Descriptor| one.platform.as_ref().is_none_or(|platform| *platform == here);
    let mut exact = manifests.iter().filter(|one| one.platform.as_ref() == Some(&here));
    exact.next().or_else(|| manifests.iter().find(fits)).ok_or_else(|| ImageError::Platform {
        wanted: here.name(),
        offered: manifests.iter().filter_map(|one| one.platform.as_ref()).map(Platform::name).collect(),
    })
}

/// An index or a manifest, distinguished by content. The accompanying media type is ignored: no digest covers it, so the same
/// bytes could be read as either (CVE-2021-41190).
pub(crate) enum Document {
    Index(Index),
    Manifest(Manifest),
}

impl Document {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        #[derive(Deserialize)]
        struct PresentFields {
            manifests: Option<IgnoredAny>,
            layers: Option<IgnoredAny>,
        }
        let present: PresentFields = parse("the manifest", bytes)?;
        match (present.manifests, present.layers) {
            (Some(_), Some(_)) => Err(ImageError::Contradiction("a document is both an index and a manifest")),
            (Some(_), None) => parse("an index", bytes).map(Self::Index),
            (None, _) => parse("the manifest", bytes).map(Self::Manifest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(os: &str, architecture: &str) -> Descriptor {
        let digest = Digest::compute(format!("{os}/{architecture}").as_bytes());
        let platform = Some(Platform { os: os.into(), architecture: architecture.into() });
        Descriptor { platform, ..Descriptor::new(MANIFEST, digest, 2) }
    }

    #[test]
    fn index_of_several_platforms_selects_that_of_this_machine() {
        let here = Platform::here();
        let all = [descriptor("unknown", "unknown"), descriptor("linux", "s390x"), descriptor("linux", &here.architecture)];
        assert_eq!(choose(&all).unwrap().digest, all[2].digest);
        let others = ["unknown/unknown", "linux/s390x"];
        assert!(matches!(choose(&all[..2]), Err(ImageError::Platform { offered, .. }) if offered == others));
    }

    #[test]
    fn document_that_is_manifest_and_index_is_refused() {
        let both = r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
        assert!(matches!(Document::parse(both.as_bytes()), Err(ImageError::Contradiction(_))));
        assert!(matches!(Document::parse(br#"{"manifests":[]}"#), Ok(Document::Index(_))));
    }

    #[test]
    fn config_with_nulls_and_unknown_fields_is_parsed() {
        let here = Platform::here().architecture;
        let text = format!(
            r#"{{"os":"linux","architecture":"{here}","history":[],"config":{{"Env":null,"Cmd":["sh"],"Volumes":{{}}}},
               "rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            Digest::compute(b"")
        );
        let run = Config::parse(text.as_bytes(), 1).unwrap().config.unwrap();
        assert_eq!((run.env, run.cmd), (None, Some(vec!["sh".to_owned()])));
        assert!(matches!(Config::parse(text.as_bytes(), 2), Err(ImageError::Contradiction(_))));
    }
}
