//! The sources of images. A *described* source (an OCI layout, an archive of `docker save`) declares its parts and their digests.
//! Any other source is a bare file system (an archive or a directory), which becomes an image of one layer.

mod archive;
mod directory;
mod docker;
mod files;
mod layout;

pub(crate) use directory::write as write_directory;
pub(crate) use files::{Files, blob};

use crate::{
    error::ImageError,
    manifest::Descriptor,
    unpack::{Bounds, UnpackError, decompress, is_compressed},
};
use agentd_disk::FileContext as _;
use archive::Archive;
use oci_client::Reference;
use std::{
    fs::{self, File},
    io::{self, Read, Seek},
    path::Path,
};

/// A source that was detected but not yet imported.
pub(crate) enum Source {
    /// An image with a manifest and a configuration.
    Described(DescribedImage),
    /// A tar archive of a file system.
    Tar(File),
    /// A directory that contains a file system.
    Directory(File),
}

/// An image with a manifest and a configuration, and the files that contain its layers.
pub(crate) struct DescribedImage {
    pub(crate) manifest: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) files: Files,
}

/// The location of a layer in a described source.
pub(crate) struct Layer {
    /// The name of the layer among the files of the source.
    pub(crate) name: String,
    /// Digest and size of the layer as stored in the source, if the source declares them.
    pub(crate) descriptor: Option<Descriptor>,
}

impl Layer {
    /// Creates the layer of an OCI layout, where the digest determines the file name.
    pub(crate) fn of_layout(descriptor: Descriptor) -> Self {
        Self { name: blob(descriptor.digest), descriptor: Some(descriptor) }
    }
}

impl Source {
    /// Detects the type of the source at `path`. A compressed archive is decompressed into `staging` first: its contents are
    /// known only after a full read, and its parts are needed in another order.
    pub(crate) fn detect(path: &Path, reference: &Reference, staging: &Path) -> Result<Self, ImageError> {
        let mut file = File::open(path).during("open", path)?;
        let metadata = file.metadata().during("stat", path)?;
        if metadata.is_dir() {
            let files = Files::Directory(file.try_clone().during("open", path)?);
            let is_layout = files.has("oci-layout")? && files.has("index.json")?;
            return if is_layout { Ok(Self::Described(layout::describe(files, reference)?)) } else { Ok(Self::Directory(file)) };
        }
        if !metadata.is_file() {
            return Err(ImageError::NotAnImage {
                path: path.to_owned(),
                why: "neither a file nor a directory — use an archive, an OCI layout or a directory",
            });
        }
        let mut head = Vec::new();
        (&mut file).take(4).read_to_end(&mut head).during("read", path)?;
        file.rewind().during("read", path)?;
        if is_compressed(&head) {
            file = plain(file, path, &staging.join("source"))?;
        }
        let not_a_tar = || ImageError::NotAnImage {
            path: path.to_owned(),
            why: "not a tar archive (plain, gzip or zstd) — use an archive, an OCI layout or a directory",
        };
        let scanned = Archive::scan(file.try_clone().during("open", path)?, &Bounds::default());
        let files = scanned.map_err(|error| match error {
            UnpackError::Archive(_) => not_a_tar(),
            source => ImageError::Archive { path: path.to_owned(), source },
        })?;
        if files.is_empty() {
            return Err(not_a_tar());
        }
        let files = Files::Archive(files);
        if files.has("oci-layout")? && files.has("index.json")? {
            return Ok(Self::Described(layout::describe(files, reference)?));
        }
        if let Some(saved) = docker::list(&files)? {
            return Ok(Self::Described(docker::describe(files, saved, reference)?));
        }
        file.rewind().during("read", path)?;
        Ok(Self::Tar(file))
    }
}

fn plain(file: File, from: &Path, to: &Path) -> Result<File, ImageError> {
    let mut copy = fs::OpenOptions::new().create_new(true).read(true).write(true).open(to).during("create", to)?;
    let mut plain = decompress(file, &Bounds::default()).during("read", from)?;
    io::copy(&mut plain, &mut copy).during("decompress", from)?;
    copy.rewind().during("read", to)?;
    Ok(copy)
}
