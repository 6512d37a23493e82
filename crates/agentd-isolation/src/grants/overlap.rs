//! Overlapping grants: an object that one grant makes read-only stays read-only in every grant that shows it.

use agentd_core::{Access, IsolationError};
use agentd_kernel::mount::GrantPlan;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// Device and inode number of a directory above a grant. Paths cannot be compared instead, because bind mounts give one directory
/// several paths.
type DirectoryId = (u64, u64);

/// Adds each read-only grant and each protected path to the protected paths of the writable grants that show it under another
/// name.
///
/// # Errors
/// [`IsolationError::Invalid`] if one object is granted both read-only and read-write, at different targets.
pub(super) fn protect(grants: &mut [GrantPlan]) -> Result<(), IsolationError> {
    if grants.len() < 2 || grants.iter().all(|grant| grant.access == Access::ReadOnly) {
        return Ok(());
    }
    let mut places = DirectoryIds::default();
    let read_only: Vec<GrantPlan> = grants.iter().filter(|grant| grant.access == Access::ReadOnly).cloned().collect();
    let protected: Vec<PathBuf> =
        grants.iter().flat_map(|grant| grant.protect.iter().map(|relative| grant.path.join(relative))).collect();
    for grant in grants.iter_mut().filter(|grant| grant.access == Access::ReadWrite) {
        let own = DirectoryIds::look_up(&grant.path);
        let mut more = Vec::new();
        for marked in &read_only {
            let Some(relative) = places.relative(&marked.path, own) else { continue };
            if marked.target == grant.target.join(&relative).components().as_path() {
                // The read-only grant is mounted at this place, over the writable one.
                continue;
            }
            if relative.as_os_str().is_empty() {
                return Err(contradiction(marked, grant));
            }
            more.push(relative);
        }
        for marked in &protected {
            match places.relative(marked, own) {
                Some(relative) if relative.as_os_str().is_empty() => grant.access = Access::ReadOnly,
                Some(relative) => more.push(relative),
                // The grant lies in a protected path.
                None if places.relative(&grant.path, DirectoryIds::look_up(marked)).is_some() => grant.access = Access::ReadOnly,
                None => {}
            }
        }
        more.retain(|relative| !grant.protect.contains(relative));
        more.sort();
        more.dedup();
        grant.protect.extend(more);
    }
    Ok(())
}

fn contradiction(one: &GrantPlan, other: &GrantPlan) -> IsolationError {
    let reason = format!(
        "the same object is granted read-only at {} and read-write at {} — drop one of the two grants",
        one.target.display(),
        other.target.display()
    );
    IsolationError::Invalid { what: format!("grant {}", one.path.display()), reason }
}

/// The ids of paths that were already looked up; `None` for a path without an object.
#[derive(Default)]
struct DirectoryIds(HashMap<PathBuf, Option<DirectoryId>>);

impl DirectoryIds {
    fn look_up(path: &Path) -> Option<DirectoryId> {
        let stat = rustix::fs::lstat(path).ok()?;
        Some((stat.st_dev, stat.st_ino))
    }

    /// Returns the path of `inner` relative to the directory `outer`, if `inner` equals `outer` or lies in it.
    fn relative(&mut self, inner: &Path, outer: Option<DirectoryId>) -> Option<PathBuf> {
        let outer = outer?;
        let around = inner.ancestors().find(|path| {
            let known = self.0.entry(path.to_path_buf()).or_insert_with(|| Self::look_up(path));
            *known == Some(outer)
        })?;
        inner.strip_prefix(around).ok().map(Path::to_path_buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn grant(path: &Path, target: &str, access: Access, protect: &[&str]) -> GrantPlan {
        let protect = protect.iter().map(PathBuf::from).collect();
        GrantPlan { protect, ..GrantPlan::new(path, target, access) }
    }

    #[test]
    fn read_only_grant_is_protected_in_writable_grant_that_also_shows_it() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("s/deep")).unwrap();
        let mut grants = [
            grant(&root, "/w", Access::ReadWrite, &["own"]),
            grant(&root.join("s/deep"), "/r", Access::ReadOnly, &[]),
            grant(&root.join("s"), "/w/s", Access::ReadOnly, &[]),
        ];
        protect(&mut grants).unwrap();
        assert_eq!(grants[0].protect, [PathBuf::from("own"), "s/deep".into()]);
        let mut both = [grant(&root, "/w", Access::ReadWrite, &[]), grant(&root, "/r", Access::ReadOnly, &[])];
        assert!(protect(&mut both).unwrap_err().to_string().contains("drop one of the two grants"));
        both[1].target = "/w".into();
        protect(&mut both).unwrap();
    }

    #[test]
    fn protected_path_is_protected_in_every_grant_that_shows_it() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        fs::create_dir_all(root.join(".git/hooks/deep")).unwrap();
        let mut grants = [
            grant(&root, "/w", Access::ReadWrite, &[".git/hooks"]),
            grant(&root.join(".git"), "/g", Access::ReadWrite, &[]),
            grant(&root.join(".git/hooks"), "/h", Access::ReadWrite, &[]),
            grant(&root.join(".git/hooks/deep"), "/d", Access::ReadWrite, &[]),
        ];
        protect(&mut grants).unwrap();
        assert_eq!(grants[1].protect, [PathBuf::from("hooks")]);
        assert_eq!(grants.map(|grant| grant.access)[2..], [Access::ReadOnly; 2]);
    }
}
