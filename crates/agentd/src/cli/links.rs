//! Symbolic links in the paths of grants. A grant is shown at its resolved path. Tools that remember a path as the user writes it
//! (CMake's cache, debug information of compilers) need the same links inside the sandbox.

use agentd_core::Grant;
use std::{
    io,
    path::{Component, Path, PathBuf},
};

/// The maximum number of links in a path, as in the kernel (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// Returns the links in `paths` and in the shell's working directory, each with the path to which it leads. Leaves out links
/// inside a grant or a system directory, because these links are visible already.
pub(crate) fn links_to_show<'a>(paths: impl Iterator<Item = &'a Path>, granted: &[Grant]) -> Vec<(PathBuf, PathBuf)> {
    let here = logical_directory();
    let base = here.clone().or_else(|| std::env::current_dir().ok()).unwrap_or_default();
    let mut links = Vec::new();
    for path in paths.map(|path| base.join(path)).chain(here.iter().cloned()) {
        for link in on_the_way(&path) {
            let is_shown = granted.iter().any(|grant| link.0.starts_with(&grant.path))
                || agentd_isolation::SYSTEM_DIRECTORIES.iter().any(|system| link.0.starts_with(system));
            let leads_to_a_grant = granted.iter().any(|grant| grant.path.starts_with(&link.1) || link.1.starts_with(&grant.path));
            if leads_to_a_grant && !is_shown && !links.contains(&link) {
                links.push(link);
            }
        }
    }
    links
}

/// Returns the working directory as the shell names it: `PWD`, if that is the current directory (`getcwd(3)`).
fn logical_directory() -> Option<PathBuf> {
    let logical = PathBuf::from(std::env::var_os("PWD")?);
    let is_here = logical.is_absolute() && logical.canonicalize().ok()? == std::env::current_dir().ok()?;
    is_here.then_some(logical)
}

/// Returns the links in a path: the resolved location of each, and the path to which it leads.
fn on_the_way(path: &Path) -> Vec<(PathBuf, PathBuf)> {
    let mut at = PathBuf::new();
    let mut links = Vec::new();
    for part in path.components() {
        // The meaning of `..` after a link depends on the link's target, so stop there.
        if part == Component::ParentDir || links.len() == MAX_LINKS {
            break;
        }
        at.push(part);
        if !at.is_symlink() {
            continue;
        }
        let place = at.parent().and_then(|parent| parent.canonicalize().ok()).zip(at.file_name());
        if let (Some((parent, name)), Ok(target)) = (place, at.canonicalize()) {
            links.push((parent.join(name), target));
        }
    }
    links
}

/// Returns every place on the way to a file: the location of each link that the kernel follows, then that of the file. Only the
/// file has no link in its path.
///
/// # Errors
/// The path leads to no file, or through more than [`MAX_LINKS`] links.
pub(crate) fn places(path: &Path) -> io::Result<Vec<PathBuf>> {
    let reversed = |path: &Path| {
        let parts = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
        parts.map(|part| part.as_os_str().to_owned()).rev().collect::<Vec<_>>()
    };
    let mut left = reversed(&std::path::absolute(path)?);
    let (mut at, mut places) = (PathBuf::from("/"), Vec::new());
    while let Some(part) = left.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(part);
        if !next.symlink_metadata()?.is_symlink() {
            at = next;
            continue;
        }
        if places.len() == MAX_LINKS {
            return Err(rustix::io::Errno::LOOP.into());
        }
        let target = next.read_link()?;
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        left.extend(reversed(&target));
        places.push(next);
    }
    places.push(at);
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn every_link_on_the_way_to_a_file_is_a_place() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for directory in ["safe", "work", "other"] {
            std::fs::create_dir(root.join(directory)).unwrap();
        }
        std::fs::write(root.join("safe/file"), "").unwrap();
        // The ends of both paths lie outside of `work`, but each path leads through it.
        symlink("../safe", root.join("work/folder")).unwrap();
        symlink(root.join("work/middle"), root.join("other/chain")).unwrap();
        symlink("../safe/file", root.join("work/middle")).unwrap();
        let file = root.join("safe/file");
        assert_eq!(places(&root.join("work/folder/file")).unwrap(), [root.join("work/folder"), file.clone()]);
        let chain = places(&root.join("work/../other/chain")).unwrap();
        assert_eq!(chain, [root.join("other/chain"), root.join("work/middle"), file]);
        symlink("loop", root.join("loop")).unwrap();
        assert!(places(&root.join("loop")).is_err() && places(&root.join("missing")).is_err());
    }

    #[test]
    fn links_in_path_are_found_at_their_resolved_location() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("data/projects/one")).unwrap();
        symlink("data", root.join("d")).unwrap();
        symlink(root.join("data/projects"), root.join("data/p")).unwrap();
        let links = on_the_way(&root.join("d/p/one"));
        assert_eq!(links, [(root.join("d"), root.join("data")), (root.join("data/p"), root.join("data/projects"))]);
        assert!(on_the_way(&root.join("data/projects/../d")).is_empty());
    }
}
