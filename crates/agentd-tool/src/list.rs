//! Lists the files of a directory.

use crate::{
    deadline::Deadline,
    error::ToolError,
    limits,
    request::ListRequest,
    resolve::{self, LastLink, Resolver},
    response::{ListResult, ListedNode, NodeKind, Truncation},
    tree::{FoundNode, Walk},
};
use std::ops::ControlFlow;

/// The maximum length of all paths of a listing, in bytes.
const MAX_PATHS: usize = 4 << 20;

/// Lists the directory of a request.
pub(crate) fn list(resolver: &Resolver, request: &ListRequest) -> Result<ListResult, ToolError> {
    let path = request.path.as_bytes();
    let directory = resolver.resolve("list", path, LastLink::Follow)?.open_directory("list", path)?;
    let depth = request.depth.unwrap_or(1).clamp(1, limits::DEPTH);
    let max = limits::ENTRIES.of(request.max_entries);
    let walk = Walk::new(&request.filter, depth, Deadline::of(request.time_ms))?;
    let (mut entries, mut bytes) = (Vec::new(), 0);
    let (left_out, truncated) = walk.run(&directory, resolver.boundary(), &mut |found| {
        let entry = entry(found);
        bytes += entry.path.0.len() + entry.target.as_ref().map_or(0, |target| target.0.len());
        if entries.len() as u64 >= max {
            return ControlFlow::Break(Truncation::Count);
        }
        if bytes > MAX_PATHS {
            return ControlFlow::Break(Truncation::Bytes);
        }
        entries.push(entry);
        ControlFlow::Continue(())
    });
    Ok(ListResult { entries, left_out, truncated })
}

fn entry(found: &FoundNode<'_>) -> ListedNode {
    let kind = resolve::kind(&found.stat);
    let target =
        (kind == NodeKind::Symlink).then(|| rustix::fs::readlinkat(found.directory, found.name, Vec::new()).ok()).flatten();
    ListedNode {
        path: found.path.into(),
        kind,
        size: resolve::size(&found.stat),
        modified_ms: resolve::modified_ms(&found.stat),
        target: target.map(|target| target.into_bytes().into()),
    }
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
