//! Lists and extracts archives of unknown origin.
//!
//! [`tar`] and [`zip`] read the entries. [`member_name`] refuses names that lead out of the new directory. Only [`extraction`]
//! writes to the file system. [`receiver`] connects these parts, and counts entries and bytes.

mod extraction;
mod member_name;
mod receiver;
mod tar;
mod zip;

use crate::{
    error::{ErrorCode, ToolError},
    read::failed,
    request::ArchiveRequest,
    resolve::{LastLink, Resolver, size},
    response::ArchiveResult,
};
use agentd_archive::UnpackError;
use receiver::Receiver;
use rustix::fs::OFlags;
use std::io::{Read, Seek};

/// The format of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ArchiveFormat {
    Tar,
    TarGzip,
    TarXz,
    TarZstd,
    Zip,
}

impl ArchiveFormat {
    /// Returns the format of an archive with these first bytes.
    fn detect(head: &[u8]) -> Self {
        let magic: [(&[u8], Self); 5] = [
            (b"PK\x03\x04", Self::Zip),
            // An archive without entries.
            (b"PK\x05\x06", Self::Zip),
            (b"\xfd7zXZ\0", Self::TarXz),
            (b"\x1f\x8b", Self::TarGzip),
            (b"\x28\xb5\x2f\xfd", Self::TarZstd),
        ];
        magic.into_iter().find(|(magic, _)| head.starts_with(magic)).map_or(Self::Tar, |(_, format)| format)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tar => "tar",
            Self::TarGzip => "tar.gz",
            Self::TarXz => "tar.xz",
            Self::TarZstd => "tar.zst",
            Self::Zip => "zip",
        }
    }
}

/// Lists or extracts the archive of a request.
pub(crate) fn archive(resolver: &Resolver, request: &ArchiveRequest) -> Result<ArchiveResult, ToolError> {
    let path = request.path.as_bytes();
    let (mut file, stat) = resolver.resolve("open", path, LastLink::Follow)?.open_regular("open", path, OFlags::RDONLY)?;
    let mut head = Vec::new();
    (&mut file).take(6).read_to_end(&mut head).map_err(|error| failed(path, &error))?;
    file.rewind().map_err(|error| failed(path, &error))?;
    if head.is_empty() {
        return Err(ToolError::at(ErrorCode::Malformed, "read", path, "the file is empty — name an archive"));
    }
    let format = ArchiveFormat::detect(&head);
    let mut receiver = Receiver::new(resolver, request, size(&stat))?;
    let read = match format {
        ArchiveFormat::Zip => zip::read(file, &mut receiver),
        _ => tar::read(file, format == ArchiveFormat::TarXz, &mut receiver),
    };
    read.map_err(|error| ToolError { path: error.path.clone().or_else(|| Some(request.path.clone())), ..error })?;
    receiver.finish(format.name())
}

impl From<UnpackError> for ToolError {
    fn from(error: UnpackError) -> Self {
        match error {
            UnpackError::TooLarge { bound, max, .. } => Self::new(
                ErrorCode::Limit,
                format!("archive: more than {max} {bound} — it may be a decompression bomb; raise `max_bytes` if it is not"),
            ),
            UnpackError::Unsupported { path, what } => {
                Self::new(ErrorCode::Malformed, format!("archive: {path:?}: {what} is not supported — extract it by a command"))
            }
            UnpackError::Archive(error) => Self::new(
                ErrorCode::Malformed,
                format!("archive: {error} — name an undamaged zip or tar archive (plain, gzip, xz or zstd)"),
            ),
            other => Self::new(ErrorCode::Malformed, format!("archive: {other}")),
        }
    }
}

#[cfg(test)]
#[path = "archive/tests.rs"]
mod tests;
