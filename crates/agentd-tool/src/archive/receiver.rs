//! Receives the entries of an archive, and lists or extracts them.

use super::{
    extraction::{Extraction, Refused},
    member_name,
};
use crate::{
    error::{ErrorCode, ToolError},
    limits,
    request::ArchiveRequest,
    resolve::Resolver,
    response::{ArchiveMember, ArchiveResult, NodeKind, Truncation},
    tree,
};
use ignore::overrides::Override;
use std::{ffi::OsStr, io::Read, os::unix::ffi::OsStrExt, path::Path};

/// The maximum length of all names in a result, in bytes.
const MAX_NAMES: usize = 4 << 20;

/// The state of reading one archive.
pub(super) struct Receiver<'a> {
    request: &'a ArchiveRequest,
    globs: Override,
    extraction: Option<Extraction>,
    entries: Vec<ArchiveMember>,
    named: usize,
    max_entries: u64,
    truncated: Option<Truncation>,
    count: u64,
    bytes: u64,
    /// The limit of the bytes of all files.
    pub(super) max_bytes: u64,
    /// The limit of the bytes of the plain archive.
    pub(super) max_plain: u64,
}

impl<'a> Receiver<'a> {
    /// Creates the receiver for an archive of `size` bytes.
    pub(super) fn new(resolver: &Resolver, request: &'a ArchiveRequest, size: u64) -> Result<Self, ToolError> {
        let globs = tree::globs(&request.glob)?;
        let extraction = match &request.extract_to {
            Some(path) => Some(Extraction::begin(resolver, path.as_bytes())?),
            None => None,
        };
        let files = limits::ARCHIVE_BYTES.of(request.max_bytes);
        let max_plain = plain_limit(size, files);
        Ok(Self {
            request,
            globs,
            extraction,
            entries: Vec::new(),
            named: 0,
            max_entries: limits::ENTRIES.of(request.max_entries),
            truncated: None,
            count: 0,
            bytes: 0,
            max_bytes: files.min(max_plain),
            max_plain,
        })
    }

    /// Returns true if the files are extracted.
    pub(super) fn extracts(&self) -> bool {
        self.extraction.is_some()
    }

    /// Receives an entry. `refused` is a reason that the format has to refuse the entry.
    pub(super) fn add(
        &mut self,
        mut member: ArchiveMember,
        mode: u32,
        refused: Option<String>,
        data: &mut dyn Read,
    ) -> Result<(), ToolError> {
        let name = member.path.as_bytes();
        let is_directory = member.kind == NodeKind::Directory;
        let plain = name.strip_suffix(b"/").unwrap_or(name);
        let selected = match member_name::components(name) {
            // The patterns are relative; what cannot be extracted is always reported.
            Err(_) => true,
            Ok(_) => {
                let matched = self.globs.matched(Path::new(OsStr::from_bytes(plain)), is_directory);
                !matched.is_ignore() && (self.globs.num_whitelists() == 0 || matched.is_whitelist())
            }
        };
        if !selected {
            return Ok(());
        }
        let room = self.max_bytes - self.bytes;
        if member.size > room {
            return Err(self.too_large());
        }
        member.refused = refused.or_else(|| refusal(&member));
        if member.refused.is_none()
            && let Some(extraction) = &mut self.extraction
        {
            match create(extraction, &member, mode, data, room) {
                Ok(bytes) => {
                    self.count += 1;
                    self.bytes += bytes;
                    return Ok(());
                }
                Err(Refused::Entry(why)) => member.refused = Some(why),
                Err(Refused::All(error)) => return Err(error),
            }
        }
        if self.extraction.is_none() {
            self.count += 1;
            self.bytes += member.size;
        }
        self.report(member);
        Ok(())
    }

    fn report(&mut self, member: ArchiveMember) {
        self.named += member.path.0.len() + member.target.as_ref().map_or(0, |target| target.0.len());
        if self.entries.len() as u64 >= self.max_entries {
            self.truncated = Some(Truncation::Count);
        } else if self.named > MAX_NAMES {
            self.truncated = Some(Truncation::Bytes);
        } else {
            self.entries.push(member);
        }
    }

    fn too_large(&self) -> ToolError {
        let why = format!(
            "archive: its files have more than {} bytes — raise `max_bytes`, unless it is a decompression bomb",
            self.max_bytes
        );
        ToolError::new(ErrorCode::Limit, why)
    }

    /// Ends the extraction, and returns the result.
    pub(super) fn finish(mut self, format: &str) -> Result<ArchiveResult, ToolError> {
        if let (Some(extraction), Some(path)) = (self.extraction.take(), &self.request.extract_to) {
            for (path, why) in extraction.finish(path.as_bytes())? {
                self.count -= 1;
                self.report(ArchiveMember {
                    path: path.into(),
                    kind: NodeKind::Symlink,
                    size: 0,
                    target: None,
                    refused: Some(why),
                });
            }
        }
        let Self { entries, count, bytes, truncated, .. } = self;
        Ok(ArchiveResult { format: format.to_owned(), entries, count, bytes, truncated })
    }
}

/// Returns the reason for which an entry is never extracted.
fn refusal(member: &ArchiveMember) -> Option<String> {
    let target = member.target.as_ref().map_or(&[][..], |target| target.as_bytes());
    let checked = match (member.kind, member_name::components(member.path.as_bytes())) {
        (_, Err(why)) => Err(why),
        (NodeKind::Device, _) => Err("device"),
        (NodeKind::Fifo, _) => Err("FIFO"),
        (NodeKind::Socket, _) => Err("socket"),
        (NodeKind::Symlink, Ok(parts)) => member_name::check_target(target, parts.len().saturating_sub(1)),
        (NodeKind::HardLink, _) => member_name::components(target).map(drop),
        _ => Ok(()),
    };
    checked.err().map(str::to_owned)
}

/// Creates an entry. Returns the number of bytes of a file.
fn create(
    extraction: &mut Extraction,
    member: &ArchiveMember,
    mode: u32,
    data: &mut dyn Read,
    room: u64,
) -> Result<u64, Refused> {
    let name = member.path.as_bytes();
    let target = member.target.as_ref().map_or(&[][..], |target| target.as_bytes());
    match member.kind {
        NodeKind::Directory => extraction.directory(name, mode).map(|()| 0),
        NodeKind::Symlink => extraction.link(name, target).map(|()| 0),
        NodeKind::HardLink => extraction.hard_link(name, target).map(|()| 0),
        _ => extraction.file(name, mode, data, room),
    }
}

/// Returns the maximum number of plain bytes of an archive of `size` bytes, of which files may have `files` bytes.
pub(super) fn plain_limit(size: u64, files: u64) -> u64 {
    // Each entry of a tar archive needs a header and padding, and some need an extension.
    let overhead = 2048 * limits::ARCHIVE_ENTRIES;
    files.saturating_add(overhead).min(limits::RATIO_FREE.max(size.saturating_mul(limits::RATIO)))
}
