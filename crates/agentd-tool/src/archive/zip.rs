//! Reads zip archives. The central directory decides; local headers are not compared with it.

use super::receiver::Receiver;
use crate::{
    error::{ErrorCode, ToolError},
    limits,
    response::{ArchiveMember, NodeKind},
};
use std::{
    fs::File,
    io::{self, BufReader, Read},
};
use zip::{CompressionMethod, ZipArchive, read::ZipFile, result::ZipError};

/// The maximum length of the target of a symbolic link, which is the content of its entry.
const MAX_TARGET: u64 = 4096;

/// The permissions of an entry that has none, as those from Windows.
const NO_MODE: u32 = 0o644;

/// Reads all entries.
pub(super) fn read(file: File, receiver: &mut Receiver<'_>) -> Result<(), ToolError> {
    let mut archive = ZipArchive::new(BufReader::with_capacity(64 << 10, file)).map_err(failure)?;
    if archive.len() as u64 > limits::ARCHIVE_ENTRIES {
        let why = format!("archive: more than {} entries — extract it by a command", limits::ARCHIVE_ENTRIES);
        return Err(ToolError::new(ErrorCode::Limit, why));
    }
    for index in 0..archive.len() {
        let (member, mode, refused) = member(&mut archive, index)?;
        let is_read = receiver.extracts() && refused.is_none() && member.kind == NodeKind::File;
        if is_read {
            let mut data = archive.by_index(index).map_err(failure)?;
            receiver.add(member, mode, None, &mut data)?;
        } else {
            receiver.add(member, mode, refused, &mut io::empty())?;
        }
    }
    Ok(())
}

/// Describes an entry. Returns it with its permissions, and the reason if it cannot be read.
fn member(archive: &mut ZipArchive<BufReader<File>>, index: usize) -> Result<(ArchiveMember, u32, Option<String>), ToolError> {
    let entry = archive.by_index_data(index).map_err(failure)?;
    let mode = entry.unix_mode();
    // The types of `man 7 inode`.
    let kind = match mode.unwrap_or(0) & 0o170_000 {
        _ if entry.is_dir() => NodeKind::Directory,
        0o120_000 => NodeKind::Symlink,
        0o010_000 => NodeKind::Fifo,
        0o140_000 => NodeKind::Socket,
        0o020_000 | 0o060_000 => NodeKind::Device,
        _ => NodeKind::File,
    };
    let refused = match entry.compression() {
        _ if kind == NodeKind::Directory => None,
        _ if entry.encrypted() => Some("encrypted".to_owned()),
        CompressionMethod::Stored | CompressionMethod::Deflated => None,
        other => Some(format!("compressed by {other}")),
    };
    let mut member = ArchiveMember { path: entry.name_raw().into(), kind, size: entry.size(), target: None, refused: None };
    drop(entry);
    if kind == NodeKind::Symlink && refused.is_none() {
        member.target = Some(target(archive.by_index(index).map_err(failure)?)?.into());
        member.size = 0;
    }
    let default = if kind == NodeKind::Directory { 0o755 } else { NO_MODE };
    Ok((member, mode.filter(|mode| mode & 0o777 != 0).unwrap_or(default), refused))
}

fn target(entry: ZipFile<'_, BufReader<File>>) -> Result<Vec<u8>, ToolError> {
    let mut target = Vec::new();
    entry.take(MAX_TARGET).read_to_end(&mut target).map_err(|error| failure(error.into()))?;
    Ok(target)
}

fn failure(error: ZipError) -> ToolError {
    ToolError::new(
        ErrorCode::Malformed,
        format!("archive: {error} — the zip archive is damaged, or uses a feature that is not supported"),
    )
}
