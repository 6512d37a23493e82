//! Releases one protected path, so that commands may change it (`--unprotect`).

use super::{
    git,
    interrupt::Interrupt,
    plan::{self, GrantedTree},
};
use agentd_core::{Access, Grant};
use std::path::{Path, PathBuf};

/// The maximum number of protected paths that a message names.
const MAX_NAMED: usize = 4;

/// The reason why a path was not released.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotReleased {
    /// No writable grant with protected paths contains the path.
    #[error("no writable grant contains this path — use a path of the workspace or of a --rw grant")]
    Outside,
    /// A directory that contains the path is read-only as a whole.
    #[error("{} is read-only as a whole — use --unprotect {}, or change the file on the host", .0.display(), .0.display())]
    Inside(PathBuf),
    /// The path leads through a symbolic link or `..` to another one.
    #[error("the path leads through a link to {} — use that path", .0.display())]
    Linked(PathBuf),
    /// The path is a directory that contains protected paths and is writable itself.
    #[error("the directory itself is writable — use --unprotect with a protected path in it: {}", names(.0))]
    Contains(Vec<PathBuf>),
    /// The path is not protected. Contains the protected paths of the grant, relative to the grant, so that the caller can
    /// suggest one.
    #[error("not a protected path, so the command can change it already — omit --unprotect, or name a protected path")]
    NotProtected(Vec<PathBuf>),
}

fn names(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    names.join(", ")
}

/// Releases the absolute path `path` in every writable grant that contains it. A path can be released if it is protected itself,
/// or if it is a directory of git directories in `.git/modules` or `.git/worktrees`.
///
/// # Errors
/// The reason why a release would have no effect.
pub fn release(grants: &mut [Grant], path: &Path) -> Result<(), NotReleased> {
    let places: Vec<GrantedTree> = grants.iter().map(GrantedTree::from_grant).collect();
    let read_only = plan::read_only(&places, &Interrupt::default()).paths;
    let contains = |grant: &Grant| grant.access == Access::ReadWrite && path.starts_with(&grant.path);
    let Some(grant) = grants.iter().find(|grant| contains(grant)) else {
        return Err(linked(path).map_or(NotReleased::Outside, NotReleased::Linked));
    };
    let listed: Vec<PathBuf> = grants.iter().flat_map(|grant| grant.protect.iter().map(|name| grant.path.join(name))).collect();
    let below_grant = |path: &PathBuf| path.strip_prefix(&grant.path).unwrap_or(path).to_path_buf();
    check(grants, path, &read_only, &listed).map_err(|reason| match reason {
        NotReleased::Contains(paths) => NotReleased::Contains(paths.iter().take(MAX_NAMED).map(below_grant).collect()),
        NotReleased::NotProtected(paths) => NotReleased::NotProtected(paths.iter().map(below_grant).collect()),
        NotReleased::Inside(path) => NotReleased::Inside(below_grant(&path)),
        other => other,
    })?;
    for grant in grants.iter_mut().filter(|grant| contains(grant)) {
        let name = path.strip_prefix(&grant.path).unwrap_or(path).to_path_buf();
        grant.protect.retain(|listed| *listed != name);
        if !grant.unprotected.contains(&name) {
            grant.unprotected.push(name);
        }
    }
    Ok(())
}

/// Checks that a release of `path` has an effect. `read_only` are the paths that would be read-only in a sandbox that starts now,
/// `listed` those that would be if they existed.
fn check(grants: &[Grant], path: &Path, read_only: &[PathBuf], listed: &[PathBuf]) -> Result<(), NotReleased> {
    if let Some(target) = linked(path) {
        return Err(NotReleased::Linked(target));
    }
    let is_above = |other: &&PathBuf| path != *other && path.starts_with(other);
    // Below a parent of git directories, only names in these are protected, unless `read_only` has the parent itself.
    let mut above = read_only.iter().chain(listed.iter().filter(|other| !git::is_git_parent(other))).filter(is_above);
    if let Some(above) = above.next() {
        return Err(NotReleased::Inside(above.clone()));
    }
    let is_released = grants.iter().any(|grant| grant.unprotected.iter().any(|name| path.starts_with(grant.path.join(name))));
    if is_released || read_only.iter().chain(listed).any(|other| other == path) {
        return Ok(());
    }
    let mut below: Vec<PathBuf> = read_only.iter().filter(|other| other.starts_with(path)).cloned().collect();
    let in_git_parent = listed.iter().any(|other| git::is_git_parent(other) && path.starts_with(other));
    if !below.is_empty() {
        return if in_git_parent { Ok(()) } else { Err(NotReleased::Contains(below)) };
    }
    below.extend(read_only.iter().chain(listed).cloned());
    Err(NotReleased::NotProtected(below))
}

/// Returns the path to which the directories of `path` lead, if one of them is a symbolic link. A payload may have created the
/// link, so it is not followed. The last component may be a link that is protected itself.
fn linked(path: &Path) -> Option<PathBuf> {
    let above = path.ancestors().skip(1).find(|above| above.symlink_metadata().is_ok())?;
    let real = above.canonicalize().ok()?.join(path.strip_prefix(above).ok()?);
    (real != path).then_some(real)
}

#[cfg(test)]
#[path = "release_tests.rs"]
mod tests;
