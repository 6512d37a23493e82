//! An image as it lies in the store.

use crate::{digest::Digest, manifest::Run};
use oci_client::Reference;
use std::path::PathBuf;

/// An image that is unpacked and ready to be stacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The name it was asked for by.
    pub reference: Reference,
    /// The digest of its manifest, which identifies it.
    pub digest: Digest,
    /// How it is run.
    pub config: ImageConfig,
    /// The trees of its layers, bottom first. What no mount could show is left out: a layer that comes again further up (overlayfs
    /// refuses to stack one twice), and what is below a layer that hides everything.
    pub layers: Vec<PathBuf>,
    /// Bytes of the files in these layers.
    pub size: u64,
    /// Device nodes that were left out of these layers: a sandbox has its own.
    pub skipped_devices: u64,
    /// Extended attributes that were left out of these layers: all that are authority, and those that the store's file system cannot keep.
    pub skipped_attributes: u64,
}

/// How an image is run. Everything here is what the image asks for, not what it gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `NAME=value` pairs; others are dropped.
    pub env: Vec<(String, String)>,
    /// The words before those of the command.
    pub entrypoint: Vec<String>,
    /// The command when none is given.
    pub cmd: Vec<String>,
    /// The working directory; `/` when the image names none.
    pub working_dir: PathBuf,
    /// `user`, `uid`, `user:group` or `uid:gid`, to be looked up in the image; empty for root.
    pub user: String,
}

impl ImageConfig {
    pub(crate) fn of(run: Option<Run>) -> Self {
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
