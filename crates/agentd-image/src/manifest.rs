//! The JSON of images, as far as it matters here: the OCI image specification's index, manifest and configuration, which Docker's
//! formats agree with but for their media types. What is not understood is ignored, as the specification asks.

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

/// An index may lead to an index; more than this is a loop or a joke.
pub(crate) const MOST_INDEXES: usize = 4;
/// The most bytes of one such document that is looked into; registries refuse manifests above 4 MiB. None that is longer is read into
/// memory, but for a registry's manifest (see `pull::registry`).
pub(crate) const MOST: u64 = 8 << 20;
/// The most layers of one image; overlayfs stacks no more than 500.
const MOST_LAYERS: usize = 500;

/// Points to content by its digest.
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

/// What an image is made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    pub(crate) os: String,
    pub(crate) architecture: String,
}

impl Platform {
    /// This machine.
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

/// Several images.
#[derive(Debug, Deserialize)]
pub(crate) struct Index {
    pub(crate) manifests: Vec<Descriptor>,
}

/// One image.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) media_type: Option<String>,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// How an image is run, and what its layers are when unpacked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Config {
    pub(crate) os: String,
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) config: Option<Run>,
    pub(crate) rootfs: RootFs,
}

/// How an image is run.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Run {
    pub(crate) user: Option<String>,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) cmd: Option<Vec<String>>,
    pub(crate) working_dir: Option<String>,
}

/// The layers, bottom first, by the digests of their plain tar streams.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RootFs {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) diff_ids: Vec<Digest>,
}

/// Reads one document.
pub(crate) fn parse<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|source| ImageError::Metadata { what, source })
}

impl Config {
    /// Reads a configuration that belongs to an image of `layers` layers and is made for this machine.
    pub(crate) fn parse(bytes: &[u8], layers: usize) -> Result<Self, ImageError> {
        let config: Self = parse("the configuration", bytes)?;
        if config.rootfs.diff_ids.len() != layers {
            return Err(ImageError::Contradiction("its configuration and its manifest count different layers"));
        }
        if layers == 0 {
            return Err(ImageError::Contradiction("it has no layers"));
        }
        if layers > MOST_LAYERS {
            return Err(ImageError::Contradiction("it has more layers than can be mounted (500)"));
        }
        let made_for = Platform { os: config.os.clone(), architecture: config.architecture.clone() };
        if made_for != Platform::here() {
            return Err(ImageError::Platform { wanted: Platform::here().name(), offered: vec![made_for.name()] });
        }
        Ok(config)
    }

    /// The configuration of a file system that says nothing of how it is run.
    pub(crate) fn of_tree(diff_ids: Vec<Digest>) -> Self {
        let Platform { os, architecture } = Platform::here();
        Self { os, architecture, config: None, rootfs: RootFs { kind: "layers".into(), diff_ids } }
    }
}

impl Manifest {
    pub(crate) fn new(config: &[u8], layers: Vec<Descriptor>) -> Self {
        let config = Descriptor::new(CONFIG, Digest::of(config), config.len() as u64);
        Self { schema_version: 2, media_type: Some(MANIFEST.into()), config, layers }
    }
}

/// The manifest of an index that is made for this machine.
pub(crate) fn choose(manifests: &[Descriptor]) -> Result<&Descriptor, ImageError> {
    let here = Platform::here();
    // An entry without a platform says nothing: its configuration will.
    let fits = |one: &&Descriptor| one.platform.as_ref().is_none_or(|platform| *platform == here);
    let mut exact = manifests.iter().filter(|one| one.platform.as_ref() == Some(&here));
    exact.next().or_else(|| manifests.iter().find(fits)).ok_or_else(|| ImageError::Platform {
        wanted: here.name(),
        offered: manifests.iter().filter_map(|one| one.platform.as_ref()).map(Platform::name).collect(),
    })
}

/// An index or a manifest, told apart by what it holds. The media type beside it is not asked: it is part of no digest, so that the same
/// bytes could be read as either (CVE-2021-41190).
pub(crate) enum Document {
    Index(Index),
    Manifest(Manifest),
}

impl Document {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        #[derive(Deserialize)]
        struct Has {
            manifests: Option<IgnoredAny>,
            layers: Option<IgnoredAny>,
        }
        let has: Has = parse("the manifest", bytes)?;
        match (has.manifests, has.layers) {
            (Some(_), Some(_)) => Err(ImageError::Contradiction("it is an index and a manifest at once")),
            (Some(_), None) => parse("an index", bytes).map(Self::Index),
            (None, _) => parse("the manifest", bytes).map(Self::Manifest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(os: &str, architecture: &str) -> Descriptor {
        let digest = Digest::of(format!("{os}/{architecture}").as_bytes());
        let platform = Some(Platform { os: os.into(), architecture: architecture.into() });
        Descriptor { platform, ..Descriptor::new(MANIFEST, digest, 2) }
    }

    #[test]
    fn of_several_platforms_this_machines_is_taken() {
        let here = Platform::here();
        let all = [descriptor("unknown", "unknown"), descriptor("linux", "s390x"), descriptor("linux", &here.architecture)];
        assert_eq!(choose(&all).unwrap().digest, all[2].digest);
        assert!(
            matches!(choose(&all[..2]), Err(ImageError::Platform { offered, .. }) if offered == ["unknown/unknown", "linux/s390x"])
        );
    }

    #[test]
    fn what_could_be_read_as_two_things_is_neither() {
        let both = r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
        assert!(matches!(Document::parse(both.as_bytes()), Err(ImageError::Contradiction(_))));
        assert!(matches!(Document::parse(br#"{"manifests":[]}"#), Ok(Document::Index(_))));
    }

    #[test]
    fn nulls_and_unknown_fields_are_read_past() {
        let here = Platform::here().architecture;
        let text = format!(
            r#"{{"os":"linux","architecture":"{here}","history":[],"config":{{"Env":null,"Cmd":["sh"],"Volumes":{{}}}},
               "rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            Digest::of(b"")
        );
        let run = Config::parse(text.as_bytes(), 1).unwrap().config.unwrap();
        assert_eq!((run.env, run.cmd), (None, Some(vec!["sh".to_owned()])));
        assert!(matches!(Config::parse(text.as_bytes(), 2), Err(ImageError::Contradiction(_))));
    }
}
