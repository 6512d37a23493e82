//! Walks a directory tree by descriptors, without following symbolic links.

use crate::{
    deadline::Deadline,
    error::{ErrorCode, ToolError},
    ignore_files::IgnoreRules,
    limits,
    request::TreeFilter,
    resolve,
    response::{LeftOut, NodeKind, Truncation},
};
use ignore::overrides::{Override, OverrideBuilder};
use rustix::{
    fs::{AtFlags, Dir, Stat, statat},
    io::Errno,
};
use std::{
    ffi::{OsStr, OsString},
    ops::ControlFlow,
    os::{
        fd::OwnedFd,
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::Path,
};

/// The maximum number of names of one directory, which are held in memory.
const MAX_NAMES: usize = 500_000;

/// A file that the walk found.
pub(crate) struct FoundNode<'a> {
    /// The path, relative to the walked directory.
    pub(crate) path: &'a [u8],
    /// The directory that contains the file.
    pub(crate) directory: &'a OwnedFd,
    /// The name in this directory.
    pub(crate) name: &'a OsStr,
    /// The metadata of the file, or of the symbolic link.
    pub(crate) stat: Stat,
}

/// A walk.
pub(crate) struct Walk<'a> {
    globs: Override,
    filter: &'a TreeFilter,
    deadline: Deadline,
    depth: u32,
    rules: IgnoreRules,
    left_out: LeftOut,
}

/// The function that receives each file. It ends the walk by returning a reason.
type Visit<'v> = dyn FnMut(&FoundNode<'_>) -> ControlFlow<Truncation> + 'v;

impl<'a> Walk<'a> {
    /// Creates a walk of `depth` levels.
    ///
    /// # Errors
    /// [`ErrorCode::Invalid`] for a malformed pattern.
    pub(crate) fn new(filter: &'a TreeFilter, depth: u32, deadline: Deadline) -> Result<Self, ToolError> {
        let globs = globs(&filter.glob)?;
        Ok(Self { globs, filter, deadline, depth, rules: IgnoreRules::default(), left_out: LeftOut::default() })
    }

    /// Walks `root`. No ignore file above `boundary` is read. Returns what was left out, and the reason if the walk ended early.
    pub(crate) fn run(
        mut self,
        root: &OwnedFd,
        boundary: Option<&OwnedFd>,
        visit: &mut Visit<'_>,
    ) -> (LeftOut, Option<Truncation>) {
        if !self.filter.ignored {
            self.rules = IgnoreRules::above(root, boundary);
        }
        let end = self.directory(root, &mut Vec::new(), 1, visit);
        self.left_out.unreadable += self.rules.unreadable;
        (self.left_out, end.break_value())
    }

    fn directory(
        &mut self,
        directory: &OwnedFd,
        path: &mut Vec<u8>,
        depth: u32,
        visit: &mut Visit<'_>,
    ) -> ControlFlow<Truncation> {
        let Ok((names, is_whole)) = names(directory) else {
            self.left_out.unreadable += 1;
            return ControlFlow::Continue(());
        };
        let before = if self.filter.ignored { 0 } else { self.rules.enter(directory, path.len()) };
        let length = path.len();
        for name in names {
            if self.deadline.is_over() {
                return ControlFlow::Break(Truncation::Time);
            }
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            self.entry(directory, &name, path, depth, visit)?;
            path.truncate(length);
        }
        if !self.filter.ignored {
            self.rules.leave(before);
        }
        if is_whole { ControlFlow::Continue(()) } else { ControlFlow::Break(Truncation::Count) }
    }

    fn entry(
        &mut self,
        directory: &OwnedFd,
        name: &OsStr,
        path: &mut Vec<u8>,
        depth: u32,
        visit: &mut Visit<'_>,
    ) -> ControlFlow<Truncation> {
        if !self.filter.hidden && name.as_bytes().starts_with(b".") {
            self.left_out.hidden += 1;
            return ControlFlow::Continue(());
        }
        let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // Removed meanwhile.
            Err(Errno::NOENT) => return ControlFlow::Continue(()),
            Err(_) => {
                self.left_out.unreadable += 1;
                return ControlFlow::Continue(());
            }
        };
        let is_directory = resolve::kind(&stat) == NodeKind::Directory;
        if !self.filter.ignored && self.rules.excludes(path, is_directory) {
            self.left_out.ignored += 1;
            return ControlFlow::Continue(());
        }
        let matched = self.globs.matched(Path::new(OsStr::from_bytes(path)), is_directory);
        if matched.is_ignore() {
            return ControlFlow::Continue(());
        }
        // With patterns that select files, a directory is only a way to files.
        if self.globs.num_whitelists() == 0 || matched.is_whitelist() {
            visit(&FoundNode { path, directory, name, stat })?;
        }
        if !is_directory || depth >= self.depth {
            return ControlFlow::Continue(());
        }
        match resolve::open_directory(directory, name) {
            Ok(child) => self.directory(&child, path, depth + 1, visit),
            Err(_) => {
                self.left_out.unreadable += 1;
                ControlFlow::Continue(())
            }
        }
    }
}

/// Parses the patterns of a filter.
///
/// # Errors
/// [`ErrorCode::Invalid`] for a malformed pattern, or too many.
pub(crate) fn globs(patterns: &[String]) -> Result<Override, ToolError> {
    let invalid = |why: String| ToolError::new(ErrorCode::Invalid, why);
    if patterns.len() > limits::GLOBS || patterns.iter().any(|pattern| pattern.len() > limits::PATTERN) {
        return Err(invalid(format!("glob: more than {} patterns, or a pattern is too long — send fewer", limits::GLOBS)));
    }
    let mut builder = OverrideBuilder::new("");
    for pattern in patterns {
        builder.add(pattern).map_err(|error| invalid(format!("glob {pattern:?}: {error} — see gitignore(5)")))?;
    }
    builder.build().map_err(|error| invalid(format!("glob: {error} — see gitignore(5)")))
}

/// Returns the names in a directory, sorted, and whether these are all.
fn names(directory: &OwnedFd) -> Result<(Vec<OsString>, bool), Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
        if names.len() >= MAX_NAMES {
            names.sort();
            return Ok((names, false));
        }
    }
    names.sort();
    Ok((names, true))
}
