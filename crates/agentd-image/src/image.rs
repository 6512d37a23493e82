//! An image of the store, with its run configuration.

use crate::{digest::Digest, manifest::Run};
use oci_client::Reference;
use std::path::PathBuf;

/// An unpacked image, ready to be stacked by overlayfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The reference by which the caller requested the image.
    pub reference: Reference,
    /// The digest of the manifest, which identifies the image.
    pub digest: Digest,
    /// The run configuration of the image.
    pub config: ImageConfig,
    /// The trees of the layers, bottom first. Layers that no mount could show are omitted. A repeated layer keeps only its
    /// uppermost position, because overlayfs refuses to stack a layer twice. Layers below one that hides everything are omitted
    /// as well.
    pub layers: Vec<PathBuf>,
    /// Total size of the files in these layers, in bytes.
    pub size: u64,
    /// Number of device nodes that were left out of these layers. A sandbox has its own device nodes.
    pub skipped_devices: u64,
    /// Number of extended attributes that were left out of these layers: those that grant authority, and those that the store's
    /// file system does not support.
    pub skipped_attributes: u64,
}

/// The run configuration that an image requests. A sandbox decides separately what to grant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `NAME=value` pairs. Entries without `=` are dropped.
    pub env: Vec<(String, String)>,
    /// The arguments that precede those of the command.
    pub entrypoint: Vec<String>,
    /// The default command.
    pub cmd: Vec<String>,
    /// The working directory; `/` if the image specifies none.
    pub working_dir: PathBuf,
    /// `user`, `uid`, `user:group` or `uid:gid`, to be resolved in the image's own user database; empty for root.
    pub user: String,
}

impl ImageConfig {
    pub(crate) fn from_run(run: Option<Run>) -> Self {
        let Run { user, env, entrypoint, cmd, working_dir } = run.unwrap_or_default();
        let pair = |entry: String| entry.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self {
            env: env.unwrap_or_default().into_iter().filter_map(pair).collect(),
            entrypoint: entrypoint.unwrap_or_default(),
            cmd: cmd.unwrap_or_default(),
            working_dir: working_dir.filter(|dir| !dir.is_empty()).unwrap_or_else(|| "/".into()).into(),
            user: user.unwrap_or_default(),
        }
    }
}
