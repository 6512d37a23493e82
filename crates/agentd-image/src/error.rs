//! Errors of importing, finding and loading images.

use crate::{digest::Digest, unpack::UnpackError};
use agentd_core::with_sources;
use oci_client::{Reference, errors::OciDistributionError};
use std::{io, path::PathBuf};

/// The reason why an image could not be imported, found or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The directory is not suitable for a store.
    #[error("open the image store: {path:?}: {why}")]
    Place {
        /// The directory.
        path: PathBuf,
        /// The problem and its remedy.
        why: &'static str,
    },
    /// A file of the store or of the source could not be used.
    #[error("{operation} {path:?}: {source}")]
    Io {
        /// The operation.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The list of images cannot be read.
    #[error(
        "read the list of images: {path:?}: damaged, or written by a later agentd: {source} — remove that file, \
         then pull or import the images again"
    )]
    Index {
        /// The file that contains the list.
        path: PathBuf,
        /// The parse error.
        #[source]
        source: serde_json::Error,
    },
    /// A part of a stored image is missing or changed. Other images may share that part.
    #[error(
        "image {reference} is damaged: its {part} {damage} — remove all images that `agentd image ls` marks as damaged, \
         run `agentd image gc`, then pull or import them again"
    )]
    Damaged {
        /// The reference of the image.
        reference: String,
        /// The damaged part.
        part: String,
        /// The kind of damage.
        #[source]
        damage: Damage,
    },
    /// No image has this reference.
    #[error("no image {reference} in the store — list images with `agentd image ls`, or get it with `agentd image pull`")]
    NotFound {
        /// The reference.
        reference: Reference,
    },
    /// The image was removed, and its layers were collected, after the caller looked it up.
    #[error("image {reference} was removed by another process during this operation — pull or import it again")]
    Gone {
        /// The reference that the image had.
        reference: Reference,
    },
    /// The reference for an import has a digest. The digest of an imported image is known only after the import.
    #[error("import an image as {reference}: the reference has a digest — use one without a digest, which the import computes")]
    NamedByDigest {
        /// The reference.
        reference: Reference,
    },
    /// The source is not an image.
    #[error("import an image: {path:?}: {why}")]
    NotAnImage {
        /// The source.
        path: PathBuf,
        /// The reason.
        why: &'static str,
    },
    /// The source is an archive that is too large or contains unsupported entries.
    #[error("read the archive: {path:?}: {source}")]
    Archive {
        /// The source.
        path: PathBuf,
        /// The cause.
        #[source]
        source: UnpackError,
    },
    /// The source contains several images and none matches the reference.
    #[error(
        "import an image: the source contains several images — use the name of one of them as REFERENCE: {}",
        .names.join(", ")
    )]
    Ambiguous {
        /// The names of the images.
        names: Vec<String>,
    },
    /// The image is built for other platforms.
    #[error(
        "select a platform of the image: {wanted} is not among the image's platforms: {} — use another image",
        .offered.join(", ")
    )]
    Platform {
        /// The platform of this host, as `os/architecture`.
        wanted: String,
        /// The platforms of the image.
        offered: Vec<String>,
    },
    /// The source lacks a part that its manifest names.
    #[error("read the image: missing part: {part} — fetch or build the image again")]
    Missing {
        /// The part.
        part: String,
    },
    /// A manifest or configuration cannot be parsed.
    #[error("parse {what} of the image: {source} — fetch or build the image again")]
    Metadata {
        /// The document.
        what: &'static str,
        /// The parse error.
        #[source]
        source: serde_json::Error,
    },
    /// A manifest or configuration is inconsistent.
    #[error("read the image: {0} — fetch or build the image again")]
    Contradiction(&'static str),
    /// Content does not have its expected digest.
    #[error(
        "verify the image: {what} has digest {actual}, expected {expected}: damaged or tampered with — fetch the image again"
    )]
    Digest {
        /// The part of the image.
        what: &'static str,
        /// The expected digest.
        expected: Digest,
        /// The digest of the content.
        actual: Digest,
    },
    /// A layer could not be unpacked.
    #[error("unpack layer {layer}: {source}")]
    Layer {
        /// The layer, as the manifest names it.
        layer: String,
        /// The cause.
        #[source]
        source: UnpackError,
    },
    /// A request to the registry failed.
    #[error(
        "request to registry {registry}: {cause} — check the image name, the network and your login",
        cause = with_sources(source)
    )]
    Registry {
        /// The registry.
        registry: String,
        /// The cause.
        #[source]
        source: Box<OciDistributionError>,
    },
    /// The login for a registry could not be read.
    #[error("read the login for registry {registry}: {why}")]
    Login {
        /// The registry.
        registry: String,
        /// The reason, and after ` — ` what to do.
        why: String,
    },
    /// A worker thread of this process panicked or was cancelled.
    #[error(
        "internal error: a worker thread panicked or was cancelled — report this as a bug of agentd, with the output of \
         `agentd doctor`"
    )]
    GivenUp,
}

/// The kind of damage to a part of a stored image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The file is missing.
    #[error("is missing")]
    Lost,
    /// The content has another digest.
    #[error("has digest {0}")]
    Changed(Digest),
    /// The content cannot be parsed.
    #[error("cannot be parsed: {0}")]
    Unreadable(#[source] serde_json::Error),
}

impl From<agentd_disk::DiskError> for ImageError {
    fn from(error: agentd_disk::DiskError) -> Self {
        let agentd_disk::DiskError { operation, path, source } = error;
        Self::Io { operation, path, source }
    }
}
