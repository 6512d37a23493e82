//! Reads a tar stream as a sequence of records: a header, its extension headers, and data. The `tar` crate reads the blocks. The
//! extensions (`pax`, GNU long names) are parsed here, because that crate buffers them without a limit and ends a `pax` value at
//! its first newline. An archive that two readers could interpret differently is rejected.

use crate::{
    bounds::{Bound, Bounds},
    error::UnpackError,
    pax,
};
use rustix::fs::Timespec;
use std::{
    ffi::OsString,
    io::{self, Read},
    os::unix::ffi::OsStringExt,
    path::PathBuf,
};
use tar::{Archive, EntryType};

/// The type of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A hard link.
    HardLink,
    /// A FIFO.
    Fifo,
    /// A device.
    Device,
}

/// One entry of an archive, without its data.
#[derive(Debug)]
pub struct Record {
    /// The name, as in the archive. The caller checks it, because it may lead anywhere.
    pub path: Vec<u8>,
    /// The target of a link.
    pub link: Vec<u8>,
    /// The type.
    pub kind: Kind,
    /// The permissions with the set-id and sticky bits.
    pub mode: u32,
    /// The user id of the owner.
    pub uid: u32,
    /// The group id of the owner.
    pub gid: u32,
    /// The time of the last change of the content.
    pub modified: Timespec,
    /// The extended attributes.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// The length of the data, in bytes.
    pub size: u64,
    /// The offset of the data in the stream, in bytes.
    pub position: u64,
}

/// The extension headers that precede the header they extend.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: pax::Records,
}

/// Reads `stream` to the end of its archive and calls `each` with each record and a reader of its data.
///
/// # Errors
/// [`UnpackError`] if the archive is malformed, unsupported, or exceeds `bounds`, and the errors of `each`.
pub fn for_each<E: From<UnpackError>>(
    stream: impl Read,
    bounds: &Bounds,
    mut each: impl FnMut(Record, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let mut archive = Archive::new(stream);
    let entries = archive.entries().map_err(UnpackError::from_stream)?;
    let mut extension = Extension::default();
    let mut count = 0;
    for entry in entries.raw(true) {
        let mut entry = entry.map_err(UnpackError::from_stream)?;
        count += 1;
        if count > bounds.entries {
            return Err(UnpackError::TooLarge { bound: Bound::Entries, max: bounds.entries, path: None }.into());
        }
        match entry.header().entry_type() {
            EntryType::GNULongName => extension.path = Some(until_zero(contents(&mut entry, bounds)?)),
            EntryType::GNULongLink => extension.link = Some(until_zero(contents(&mut entry, bounds)?)),
            EntryType::XHeader => extension.pax = pax::parse(&contents(&mut entry, bounds)?)?,
            // The header sets defaults for all entries that follow. In practice, it holds a comment (`git archive`), which agentd
            // does not need.
            EntryType::XGlobalHeader => {}
            _ => {
                let record = record(entry.header(), entry.raw_file_position(), std::mem::take(&mut extension), bounds)?;
                each(record, &mut entry)?;
            }
        }
    }
    Ok(())
}

/// Converts a name for an error message, cut to 256 bytes because a hostile name may be long.
pub fn lossy(raw: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(raw.iter().take(256).copied().collect()))
}

fn contents(entry: &mut tar::Entry<'_, impl Read>, bounds: &Bounds) -> Result<Vec<u8>, UnpackError> {
    let size = entry.header().entry_size().map_err(UnpackError::Archive)?;
    if size > bounds.extension {
        return Err(UnpackError::TooLarge { bound: Bound::Extension, max: bounds.extension, path: None });
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(UnpackError::from_stream)?;
    if bytes.len() as u64 != size {
        return Err(UnpackError::Archive(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(bytes)
}

fn until_zero(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

fn record(header: &tar::Header, position: u64, extension: Extension, bounds: &Bounds) -> Result<Record, UnpackError> {
    let Extension { path, link, pax } = extension;
    let path = pax.path.or(path).unwrap_or_else(|| header.path_bytes().into_owned());
    let link = pax.link.or(link).unwrap_or_else(|| header.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default());
    let unsupported = |what| UnpackError::Unsupported { path: lossy(&path), what };
    let number = |value: io::Result<u64>, what| value.ok().and_then(id).ok_or_else(|| unsupported(what));

    let kind = match header.entry_type() {
        // In archives older than POSIX, a directory is a file whose name ends with a slash.
        EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => Kind::Directory,
        EntryType::Regular | EntryType::Continuous => Kind::File,
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Symlink,
        EntryType::Link => Kind::HardLink,
        EntryType::Fifo => Kind::Fifo,
        EntryType::Char | EntryType::Block => Kind::Device,
        EntryType::GNUSparse => return Err(unsupported("sparse file in GNU format")),
        _ => return Err(unsupported("unknown entry type")),
    };
    if pax.sparse {
        return Err(unsupported("sparse file in GNU format"));
    }
    let size = header.entry_size().map_err(UnpackError::Archive)?;
    if pax.size.is_some_and(|said| said != size) {
        return Err(unsupported("headers with two different sizes"));
    }
    if kind != Kind::File && size != 0 {
        return Err(unsupported("data in an entry whose type has no data"));
    }
    if size > bounds.file {
        return Err(UnpackError::TooLarge { bound: Bound::File, max: bounds.file, path: Some(lossy(&path)) });
    }
    let seconds = header.mtime().ok().and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(0);
    Ok(Record {
        kind,
        mode: header.mode().map_err(UnpackError::Archive)? & 0o7777,
        uid: number(pax.uid.map_or_else(|| header.uid(), Ok), "user id out of range")?,
        gid: number(pax.gid.map_or_else(|| header.gid(), Ok), "group id out of range")?,
        modified: pax.modified.unwrap_or(Timespec { tv_sec: seconds, tv_nsec: 0 }),
        attributes: pax.attributes,
        size,
        position,
        path,
        link,
    })
}

/// Converts a user or group id. The kernel reserves the largest number for "no id" (`man 2 chown`).
fn id(number: u64) -> Option<u32> {
    u32::try_from(number).ok().filter(|id| *id != u32::MAX)
}
