//! Removes and moves files.

use crate::{
    error::{ErrorCode, ToolError},
    permissions::Permissions,
    rename::{DirectoryEntry, rename_without_replacing},
    request::{MoveRequest, RemoveRequest},
    resolve::{LastLink, NamedPlace, Resolver, kind},
    response::{MoveResult, NodeKind, RemoveResult},
    staged::{StagedFile, write_error},
};
use agentd_disk::erase;
use rustix::{
    fs::{AtFlags, OFlags, Stat, renameat, unlinkat},
    io::Errno,
};
use std::os::fd::AsFd;

/// Removes the file of a request.
pub(crate) fn remove(resolver: &Resolver, request: &RemoveRequest) -> Result<RemoveResult, ToolError> {
    let path = request.path.as_bytes();
    let failed = |errno| ToolError::system("remove", path, errno);
    let place = match resolver.resolve("remove", path, LastLink::Keep) {
        Err(error) if error.code == ErrorCode::NotFound && request.missing_ok => return Ok(RemoveResult { removed: false }),
        place => place?.require_name("remove", path)?,
    };
    let Some(found) = place.stat().map_err(failed)? else {
        return if request.missing_ok { Ok(RemoveResult { removed: false }) } else { Err(failed(Errno::NOENT)) };
    };
    match (kind(&found), request.recursive) {
        (NodeKind::Directory, true) => erase(place.directory.as_fd(), &place.name).map_err(|errno| ToolError {
            message: format!("{} (a part of the directory may have been removed)", failed(errno).message),
            ..failed(errno)
        })?,
        (NodeKind::Directory, false) => unlinkat(&place.directory, &place.name, AtFlags::REMOVEDIR).map_err(failed)?,
        _ => unlinkat(&place.directory, &place.name, AtFlags::empty()).map_err(failed)?,
    }
    Ok(RemoveResult { removed: true })
}

/// Moves the file of a request.
pub(crate) fn relocate(resolver: &Resolver, request: &MoveRequest) -> Result<MoveResult, ToolError> {
    let (source, target) = (request.from.as_bytes(), request.to.as_bytes());
    let from = resolver.resolve("move", source, LastLink::Keep)?.require_name("move", source)?;
    let to = resolver.resolve("move to", target, LastLink::Keep)?.require_name("move to", target)?;
    let missing = || ToolError::system("move", source, Errno::NOENT);
    let found = from.stat().map_err(|errno| ToolError::system("move", source, errno))?.ok_or_else(missing)?;
    let [old, new] = [&from, &to].map(|place| DirectoryEntry { directory: place.directory.as_fd(), name: &place.name });
    let renamed = if request.replace {
        renameat(old.directory, old.name, new.directory, new.name)
    } else {
        rename_without_replacing(old, new)
    };
    match renamed {
        Ok(()) => Ok(MoveResult { copied: false }),
        Err(Errno::XDEV) => copy(request, &from, &to, &found),
        Err(errno) => Err(ToolError::system("move to", target, errno)),
    }
}

/// Moves a regular file to another file system.
fn copy(request: &MoveRequest, from: &NamedPlace, to: &NamedPlace, found: &Stat) -> Result<MoveResult, ToolError> {
    let (source, target) = (request.from.as_bytes(), request.to.as_bytes());
    if kind(found) != NodeKind::File {
        let why = "the new path is on another file system, to which only regular files can be moved — copy it by a command";
        return Err(ToolError::at(ErrorCode::WrongKind, "move", source, why));
    }
    let (mut file, stat) = from.open_regular("move", source, OFlags::RDONLY)?;
    let failed = |errno| write_error(target, errno);
    let mut staged = StagedFile::create(to, None, Permissions::from_mode(stat.st_mode)).map_err(failed)?;
    std::io::copy(&mut file, &mut staged.file).map_err(|error| crate::read::failed(target, &error))?;
    staged.commit(request.replace, false).map_err(failed)?;
    unlinkat(&from.directory, &from.name, AtFlags::empty()).map_err(|errno| {
        let why = format!("{errno}; the file was copied, but the original could not be removed — remove one of the two");
        ToolError { errno: Some(errno.raw_os_error()), ..ToolError::at(ErrorCode::PermissionDenied, "move", source, &why) }
    })?;
    Ok(MoveResult { copied: true })
}

#[cfg(test)]
#[path = "relocate_tests.rs"]
mod tests;
