//! Access to the named files of a source, which is a directory or an archive.

use super::archive::Archive;
use crate::{
    digest::Digest,
    error::ImageError,
    manifest::{Descriptor, MAX_DOCUMENT_BYTES},
};
use agentd_disk::FileContext as _;
use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};
use std::{fs::File, io::Read};

/// The named files of a source.
pub(crate) enum Files {
    Directory(File),
    Archive(Archive),
}

/// An opened file of a source.
pub(crate) struct OpenFile {
    pub(crate) content: Box<dyn Read + Send>,
    pub(crate) size: u64,
}

impl Files {
    pub(crate) fn has(&self, name: &str) -> Result<bool, ImageError> {
        self.open(name).map(|found| found.is_some())
    }

    /// Opens a file; `None` if no regular file has this name.
    pub(crate) fn open(&self, name: &str) -> Result<Option<OpenFile>, ImageError> {
        match self {
            Self::Directory(directory) => open_beneath(directory, name),
            Self::Archive(archive) => Ok(archive.open(name)),
        }
    }

    /// Reads a document of at most [`MAX_DOCUMENT_BYTES`] bytes; `None` if no regular file has this name.
    pub(crate) fn document(&self, name: &str) -> Result<Option<Vec<u8>>, ImageError> {
        let Some(OpenFile { content, size }) = self.open(name)? else { return Ok(None) };
        if size > MAX_DOCUMENT_BYTES {
            return Err(ImageError::Contradiction("a JSON document is larger than 8 MiB"));
        }
        let mut bytes = Vec::new();
        content.take(MAX_DOCUMENT_BYTES).read_to_end(&mut bytes).during("read", name)?;
        Ok(Some(bytes))
    }

    /// Reads the document that `descriptor` identifies in an OCI layout, and verifies the document's digest.
    pub(super) fn described(&self, what: &'static str, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let missing = || ImageError::Missing { part: format!("{what} ({})", descriptor.digest) };
        let bytes = self.document(&blob(descriptor.digest))?.ok_or_else(missing)?;
        match Digest::compute(&bytes) {
            actual if actual == descriptor.digest => Ok(bytes),
            actual => Err(ImageError::Digest { what, expected: descriptor.digest, actual }),
        }
    }
}

/// Returns the path of a blob in an OCI layout.
pub(crate) fn blob(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Opens a file beneath `directory`, which may belong to another user: its symbolic links cannot lead out of it, and opening a
/// FIFO does not block.
fn open_beneath(directory: &File, name: &str) -> Result<Option<OpenFile>, ImageError> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = match rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(errno).during("open", name)?,
    };
    let metadata = file.metadata().during("stat", name)?;
    let size = metadata.len();
    Ok(metadata.is_file().then(|| OpenFile { content: Box::new(file), size }))
}
