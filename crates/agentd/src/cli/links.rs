//! Symbolic links in the paths of grants. A grant is shown at its resolved path. Tools that remember a path as the user writes it
//! (CMake's cache, debug information of compilers) need the same links inside the sandbox.

use agentd_core::Grant;
use std::path::{Component, Path, PathBuf};

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

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
