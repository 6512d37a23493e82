//! Creates, overwrites or appends to a file.

use crate::{
    error::{ErrorCode, ToolError},
    permissions::Permissions,
    read::failed,
    request::{Disposition, WriteRequest},
    resolve::{LastLink, NamedPlace, Resolver, require_regular, size},
    response::WriteResult,
    staged::{StagedFile, write_error},
};
use rustix::{
    fs::{Mode, OFlags, Stat, fchmod, fsync, ftruncate, mkdirat},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Read, Write},
};

/// Writes the file of a request with `length` bytes of `content`.
pub(crate) fn write(
    resolver: &Resolver,
    request: &WriteRequest,
    content: &mut dyn Read,
    length: u64,
) -> Result<WriteResult, ToolError> {
    let path = request.path.as_bytes();
    if request.parents {
        create_parents(resolver, path)?;
    }
    let place = resolver.resolve("write", path, LastLink::Follow)?.require_name("write", path)?;
    let old = place.stat().map_err(|errno| write_error(path, errno))?;
    match (request.disposition, old) {
        (Disposition::Create, Some(_)) => Err(ToolError::system("create", path, Errno::EXIST)),
        (Disposition::Append, Some(_)) => append(&place, request, content, length),
        (Disposition::Append | Disposition::Create, None) => stage(&place, request, None, content, length),
        (Disposition::Overwrite, old) => {
            let old = old.map(|old| writable(&place, path, old)).transpose()?;
            stage(&place, request, old, content, length)
        }
    }
}

/// Checks that the process may write the file, and returns its metadata.
pub(crate) fn writable(place: &NamedPlace, path: &[u8], found: Stat) -> Result<Stat, ToolError> {
    require_regular("write", path, &found)?;
    match place.open_regular("write", path, OFlags::WRONLY) {
        Ok((_, stat)) => Ok(stat),
        // A program that runs cannot be written, but it can be replaced (`man 2 open`, ETXTBSY).
        Err(error) if error.errno == Some(Errno::TXTBSY.raw_os_error()) => Ok(found),
        Err(error) => Err(error),
    }
}

fn stage(
    place: &NamedPlace,
    request: &WriteRequest,
    old: Option<Stat>,
    content: &mut dyn Read,
    length: u64,
) -> Result<WriteResult, ToolError> {
    let path = request.path.as_bytes();
    let failed = |errno| write_error(path, errno);
    let kept = old.map(|old| Permissions::from_mode(old.st_mode));
    let mode = request.mode.or(kept).unwrap_or(Permissions::NEW_FILE);
    let mut staged = StagedFile::create(place, old.as_ref(), mode).map_err(failed)?;
    copy(content, &mut staged.file, length, path)?;
    // Another process may have created the file meanwhile. Only `Overwrite` replaces such a file.
    staged.commit(request.disposition == Disposition::Overwrite, request.sync).map_err(failed)?;
    Ok(WriteResult { written: length, size: length, created: old.is_none(), mode })
}

fn append(place: &NamedPlace, request: &WriteRequest, content: &mut dyn Read, length: u64) -> Result<WriteResult, ToolError> {
    let path = request.path.as_bytes();
    let system = |errno| write_error(path, errno);
    let (mut file, before) = place.open_regular("write", path, OFlags::WRONLY | OFlags::APPEND)?;
    if let Err(error) = copy(content, &mut file, length, path) {
        // The caller gets the first error. Bytes that another process appended meanwhile are lost.
        let _ = ftruncate(&file, size(&before));
        return Err(error);
    }
    if let Some(mode) = request.mode {
        fchmod(&file, Mode::from_raw_mode(mode.bits())).map_err(system)?;
    }
    if request.sync {
        fsync(&file).map_err(system)?;
    }
    let after = rustix::fs::fstat(&file).map_err(system)?;
    Ok(WriteResult { written: length, size: size(&after), created: false, mode: Permissions::from_mode(after.st_mode) })
}

/// Copies exactly `length` bytes.
fn copy(content: &mut dyn Read, file: &mut File, length: u64, path: &[u8]) -> Result<(), ToolError> {
    let mut buffer = vec![0; 64 << 10];
    let mut left = length;
    while left > 0 {
        let max = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let read = match content.read(&mut buffer[..max]) {
            Ok(0) => {
                let why = "the content ended early; nothing was written — repeat the request";
                return Err(ToolError::at(ErrorCode::Invalid, "write", path, why));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(|error| failed(path, &error))?,
        };
        file.write_all(&buffer[..read]).map_err(|error| failed(path, &error))?;
        left -= read as u64;
    }
    Ok(())
}

/// Creates the missing directories above `path`.
fn create_parents(resolver: &Resolver, path: &[u8]) -> Result<(), ToolError> {
    for (end, _) in path.iter().enumerate().filter(|(at, byte)| *at > 0 && **byte == b'/') {
        let parent = &path[..end];
        let place = match resolver.resolve("create", parent, LastLink::Follow) {
            // A directory above the one that no path leaves. If the whole path leads out, it is refused later.
            Err(error) if error.code == ErrorCode::Outside => continue,
            place => place?,
        };
        match mkdirat(&place.directory, &place.name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(ToolError::system("create", parent, errno)),
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;
