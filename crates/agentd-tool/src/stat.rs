//! Describes a file.

use crate::{
    error::ToolError,
    permissions::Permissions,
    request::StatRequest,
    resolve::{self, LastLink, Resolver},
    response::{NodeKind, StatResult},
};
use rustix::{fs::readlinkat, io::Errno};

/// Describes the file of a request.
pub(crate) fn stat(resolver: &Resolver, request: &StatRequest) -> Result<StatResult, ToolError> {
    let path = request.path.as_bytes();
    let failed = |errno| ToolError::system("stat", path, errno);
    let last = if request.follow { LastLink::Follow } else { LastLink::Keep };
    let place = resolver.resolve("stat", path, last)?;
    let stat = place.stat().map_err(failed)?.ok_or_else(|| failed(Errno::NOENT))?;
    let kind = resolve::kind(&stat);
    let target = match kind {
        NodeKind::Symlink => Some(readlinkat(&place.directory, &place.name, Vec::new()).map_err(failed)?),
        _ => None,
    };
    Ok(StatResult {
        kind,
        size: resolve::size(&stat),
        mode: Permissions::from_mode(stat.st_mode),
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified_ms: resolve::modified_ms(&stat),
        target: target.map(|target| target.into_bytes().into()),
    })
}
