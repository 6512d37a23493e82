//! Changes parts of a file, all or nothing, and describes the change as a unified diff.

use crate::{
    error::{ErrorCode, ToolError},
    limits,
    permissions::Permissions,
    read::failed,
    replacement::{apply, length_after, plan},
    request::EditRequest,
    resolve::{LastLink, Resolver, size},
    response::{EditResult, Truncation},
    staged::{StagedFile, write_error},
    write::writable,
};
use rustix::fs::{OFlags, Stat};
use similar::TextDiff;
use std::{
    io::{self, Read, Write},
    time::Duration,
};

/// The time after which the diff is no longer the shortest one.
const DIFF_TIME: Duration = Duration::from_secs(2);

/// Edits the file of a request. Returns the result and the diff.
pub(crate) fn edit(resolver: &Resolver, request: &EditRequest) -> Result<(EditResult, Vec<u8>), ToolError> {
    let path = request.path.as_bytes();
    let place = resolver.resolve("edit", path, LastLink::Follow)?.require_name("edit", path)?;
    let (mut file, before) = place.open_regular("edit", path, OFlags::RDONLY)?;
    let mut content = Vec::new();
    (&mut file).take(limits::EDIT + 1).read_to_end(&mut content).map_err(|error| failed(path, &error))?;
    if content.len() as u64 > limits::EDIT {
        let why = format!("the file is larger than {} bytes — write it as a whole", limits::EDIT);
        return Err(ToolError::at(ErrorCode::Limit, "edit", path, &why));
    }
    let at = |error: ToolError| ToolError { path: Some(request.path.clone()), ..error };
    let plan = plan(&content, &request.edits).map_err(at)?;
    let edited = apply(&content, &plan, length_after(&content, &plan).map_err(at)?);
    if !request.dry_run {
        writable(&place, path, before)?;
        let failed = |errno| write_error(path, errno);
        let mut staged = StagedFile::create(&place, Some(&before), Permissions::from_mode(before.st_mode)).map_err(failed)?;
        staged.file.write_all(&edited).map_err(|error| crate::read::failed(path, &error))?;
        let now = place.stat().map_err(failed)?;
        if now.is_none_or(|now| !is_same(&before, &now)) || size(&before) != content.len() as u64 {
            let why = "another process changed the file meanwhile; nothing was written — read the file again";
            return Err(ToolError::at(ErrorCode::Changed, "edit", path, why));
        }
        staged.commit(true, request.sync).map_err(failed)?;
    }
    let (diff, is_whole) = diff(&content, &edited, path);
    let result = EditResult {
        replaced: plan.len() as u64,
        size: edited.len() as u64,
        diff_truncated: (!is_whole).then_some(Truncation::Bytes),
    };
    Ok((result, diff))
}

/// Returns true if the two describe one file with the same content.
fn is_same(before: &Stat, now: &Stat) -> bool {
    let identity = |stat: &Stat| {
        (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec)
    };
    identity(before) == identity(now)
}

/// Returns the unified diff, and whether it is whole. A diff over its limit is cut after a line.
fn diff(old: &[u8], new: &[u8], path: &[u8]) -> (Vec<u8>, bool) {
    let (old, new) = (lines(old), lines(new));
    let diff = TextDiff::configure().timeout(DIFF_TIME).newline_terminated(true).diff_slices(&old, &new);
    let mut output = Limited { bytes: Vec::new() };
    let written = write_diff(&mut output, &diff, &path.escape_ascii().to_string());
    if written.is_err() {
        let end = memchr::memrchr(b'\n', &output.bytes).map_or(0, |at| at + 1);
        output.bytes.truncate(end);
    }
    (output.bytes, written.is_ok())
}

/// Returns the lines, each with its line feed.
fn lines(content: &[u8]) -> Vec<&[u8]> {
    content.split_inclusive(|byte| *byte == b'\n').collect()
}

/// Writes the diff. Fails only if the limit of `output` is reached.
fn write_diff(output: &mut Limited, diff: &TextDiff<'_, '_, [u8]>, name: &str) -> io::Result<()> {
    for (number, hunk) in diff.unified_diff().context_radius(3).iter_hunks().enumerate() {
        if number == 0 {
            write!(output, "--- a/{name}\n+++ b/{name}\n")?;
        }
        // The `Display` of a hunk would replace bytes that are not UTF-8.
        hunk.to_writer(&mut *output)?;
    }
    Ok(())
}

/// A writer that keeps at most [`limits::DIFF`] bytes.
struct Limited {
    bytes: Vec<u8>,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = limits::DIFF - self.bytes.len();
        self.bytes.extend_from_slice(&bytes[..room.min(bytes.len())]);
        if bytes.len() > room {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "edit_tests.rs"]
mod tests;
