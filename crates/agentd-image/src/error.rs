//! Why an image could not be taken in, found or given back.

use crate::{digest::Digest, unpack::UnpackError};
use oci_client::{Reference, errors::OciDistributionError};
use std::{io, path::PathBuf};

/// Why an image could not be taken in, found or given back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The store's directory cannot hold a store.
    #[error("image store {path:?}: {why}")]
    Place {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        why: &'static str,
    },
    /// A file of the store or of the source could not be used.
    #[error("image store: {doing} {path:?}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The list of the images cannot be read.
    #[error("image store: {path:?} is damaged, or a later agentd's: {source} — remove that file and take the images in again")]
    Index {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The store has an image, but not as it took it in. Others may share the part.
    #[error(
        "image {reference} is damaged: its {part} {damage} — remove all images that `agentd image ls` calls damaged, \
         then `agentd image gc`, and take them in again"
    )]
    Damaged {
        /// Its reference.
        reference: String,
        /// The part of it.
        part: String,
        /// What became of that.
        #[source]
        damage: Damage,
    },
    /// No image has this reference.
    #[error("no image {reference} — see `agentd image ls`, or get it with `agentd image pull`")]
    NotFound {
        /// The reference.
        reference: Reference,
    },
    /// An image was removed, and its layers collected, after it was found.
    #[error("image {reference} was removed a moment ago — take it in again")]
    Gone {
        /// What it was called.
        reference: Reference,
    },
    /// A name with a digest was to be given to what an import finds, whatever that is.
    #[error("what is imported cannot be called {reference}: nothing holds it to that digest — name it without the digest")]
    NamedByDigest {
        /// The name.
        reference: Reference,
    },
    /// The source is nothing that can be taken in.
    #[error("{path:?} is no image: {why}")]
    NotAnImage {
        /// The source.
        path: PathBuf,
        /// What it is instead.
        why: &'static str,
    },
    /// The source is an archive that is too big, or holds what is not read.
    #[error("{path:?}: {source}")]
    Archive {
        /// The source.
        path: PathBuf,
        /// Why.
        #[source]
        source: UnpackError,
    },
    /// The source holds several images.
    #[error("the source holds several images — name one of: {}", .names.join(", "))]
    Ambiguous {
        /// Their names.
        names: Vec<String>,
    },
    /// The image is made for other machines.
    #[error("the image is not made for {wanted}, only for {} — take another image", .offered.join(", "))]
    Platform {
        /// This machine, as `os/architecture`.
        wanted: String,
        /// What the image is made for.
        offered: Vec<String>,
    },
    /// The source lacks a part that its manifest names.
    #[error("the image lacks {part} — fetch or build it again")]
    Missing {
        /// The part.
        part: String,
    },
    /// A manifest or configuration cannot be read.
    #[error("{what} of the image cannot be read: {source} — fetch or build it again")]
    Metadata {
        /// Which.
        what: &'static str,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A manifest or configuration says what cannot be.
    #[error("the image contradicts itself: {0} — fetch or build it again")]
    Contradiction(&'static str),
    /// Content is not what its digest says.
    #[error("{what} has digest {actual}, not {expected} — it was damaged or tampered with; fetch it again")]
    Digest {
        /// Which part of the image.
        what: &'static str,
        /// What was named.
        expected: Digest,
        /// What was found.
        actual: Digest,
    },
    /// A layer could not be unpacked.
    #[error("layer {layer}: {source}")]
    Layer {
        /// The layer, as its manifest names it.
        layer: String,
        /// Why.
        #[source]
        source: UnpackError,
    },
    /// The registry did not give the image.
    #[error("registry {registry}: {source} — check the name, the network and your login")]
    Registry {
        /// The registry.
        registry: String,
        /// Why.
        #[source]
        source: Box<OciDistributionError>,
    },
    /// The login for a registry could not be read.
    #[error("login for {registry}: {why} — log in again, or unset DOCKER_CONFIG")]
    Login {
        /// The registry.
        registry: String,
        /// Why.
        why: String,
    },
    /// A thread of this process that did the work is gone.
    #[error("the work was given up before it was done")]
    GivenUp,
}

/// What became of a part of an image in the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// Its file is gone.
    #[error("is not there")]
    Lost,
    /// It is other content.
    #[error("has digest {0}")]
    Changed(Digest),
    /// It says nothing.
    #[error("cannot be read: {0}")]
    Unreadable(#[source] serde_json::Error),
}

/// Names what was being done to which file when an I/O error came.
pub(crate) trait Doing<T> {
    fn doing(self, doing: &'static str, path: impl Into<PathBuf>) -> Result<T, ImageError>;
}

impl From<agentd_disk::DiskError> for ImageError {
    fn from(error: agentd_disk::DiskError) -> Self {
        let agentd_disk::DiskError { doing, path, source } = error;
        Self::Io { doing, path, source }
    }
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, doing: &'static str, path: impl Into<PathBuf>) -> Result<T, ImageError> {
        self.map_err(|error| ImageError::Io { doing, path: path.into(), source: error.into() })
    }
}
