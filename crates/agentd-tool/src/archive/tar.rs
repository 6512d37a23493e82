//! Reads tar archives.

use super::receiver::Receiver;
use crate::{
    error::ToolError,
    limits,
    response::{ArchiveMember, NodeKind},
};
use agentd_archive::{Bounds, Kind, Record, UnpackError, decompress, for_each};
use lzma_rust2::XzReader;
use std::{
    fs::File,
    io::{BufReader, Read},
};

/// Memory of the decoder of xz, in KiB: the dictionary of `xz -9` has 64 MiB.
const XZ_MEMORY: u32 = 128 << 10;

/// Reads all entries.
pub(super) fn read(file: File, is_xz: bool, receiver: &mut Receiver<'_>) -> Result<(), ToolError> {
    let bounds =
        Bounds { total: receiver.max_plain, file: receiver.max_bytes, entries: limits::ARCHIVE_ENTRIES, ..Bounds::default() };
    let stream: Box<dyn Read> = if is_xz {
        Box::new(XzReader::new_mem_limit(BufReader::with_capacity(64 << 10, file), true, XZ_MEMORY))
    } else {
        Box::new(file)
    };
    let plain = decompress(stream, &bounds).map_err(UnpackError::from_stream)?;
    for_each(plain, &bounds, |record, data| receiver.add(member(&record), record.mode, None, data))
}

fn member(record: &Record) -> ArchiveMember {
    let kind = match record.kind {
        Kind::File => NodeKind::File,
        Kind::Directory => NodeKind::Directory,
        Kind::Symlink => NodeKind::Symlink,
        Kind::HardLink => NodeKind::HardLink,
        Kind::Fifo => NodeKind::Fifo,
        Kind::Device => NodeKind::Device,
    };
    let target = matches!(kind, NodeKind::Symlink | NodeKind::HardLink).then(|| record.link.clone().into());
    ArchiveMember { path: record.path.clone().into(), kind, size: record.size, target, refused: None }
}
