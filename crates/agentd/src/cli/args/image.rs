//! `agentd image`.

use agentd_image::Reference;
use clap::Subcommand;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Download an image from its registry
    Pull {
        /// The reference of the image, e.g. debian:12
        reference: Reference,
    },
    /// Import an image or a root file system from a local path
    Import {
        /// An OCI layout, an archive of `docker save`, a root file system in a tar file, or a directory
        source: PathBuf,
        /// The reference to give to the image; if the source contains several images, also the name of the one to import
        reference: Reference,
    },
    /// List the images
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove images; `gc` then deletes their unused layers
    Rm {
        /// The references of the images
        #[arg(required = true)]
        references: Vec<Reference>,
    },
    /// Delete layers and blobs that no image uses
    Gc,
}
