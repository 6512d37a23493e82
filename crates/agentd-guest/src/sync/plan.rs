//! Plans copies: which directories are copied for a list of grants, which grants of the copies the guest's sandbox gets, and
//! which paths of the host may be changed. Consists of values only.

use super::entry::Content;
use agentd_core::{Access, Grant, GuardRule, ObjectId};
use agentd_kernel::mount::GrantPlan;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// A directory that is copied, or one file in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Copied {
    /// The directory.
    pub directory: PathBuf,
    /// The file in the directory, if a file was granted.
    pub only: Option<OsString>,
    /// User and group whose rights suffice to read and to change the copied files.
    pub owner: (u32, u32),
    /// True if any of the files may be changed.
    pub writable: bool,
    /// The granted object: the directory, or the file in it.
    pub object: ObjectId,
}

impl Copied {
    /// Returns the granted path.
    fn path(&self) -> PathBuf {
        self.only.as_ref().map_or_else(|| self.directory.clone(), |only| self.directory.join(only))
    }
}

/// Returns the copies for these grants, and for each grant the number of its copy. A grant inside another one of the same owner
/// shares that copy, so that each file is copied once. `is_file` returns whether a path is a file.
pub(super) fn copied(grants: &[GrantPlan], is_file: impl Fn(&Path) -> bool) -> (Vec<Copied>, Vec<usize>) {
    let mut order: Vec<usize> = (0..grants.len()).collect();
    order.sort_by_key(|number| grants[*number].path.components().count());
    let mut copies: Vec<Copied> = Vec::new();
    let mut places = vec![0; grants.len()];
    for number in order {
        let grant = &grants[number];
        let around = copies.iter().position(|copy| {
            let inside = if copy.only.is_some() { grant.path == copy.path() } else { grant.path.starts_with(&copy.directory) };
            inside && copy.owner == grant.owner
        });
        places[number] = around.unwrap_or_else(|| {
            let (directory, only) = match (is_file(&grant.path), grant.path.parent(), grant.path.file_name()) {
                (true, Some(parent), Some(name)) => (parent.to_path_buf(), Some(name.to_owned())),
                _ => (grant.path.clone(), None),
            };
            copies.push(Copied { directory, only, owner: grant.owner, writable: false, object: grant.object.clone() });
            copies.len() - 1
        });
        copies[places[number]].writable |= grant.access == Access::ReadWrite;
    }
    (copies, places)
}

/// Returns the grants of the guest's sandbox. `places` has for each grant the directory of its copy in the guest.
pub(super) fn inside(grants: &[GrantPlan], places: &[(PathBuf, &Copied)]) -> Vec<Grant> {
    let shown = |(grant, (place, copy)): (&GrantPlan, &(PathBuf, &Copied))| {
        let relative = grant.path.strip_prefix(&copy.directory).unwrap_or(Path::new(""));
        // `Path::join` with an empty path appends a slash, which is invalid after a file.
        let path = if relative.as_os_str().is_empty() { place.clone() } else { place.join(relative) };
        // The guard has already been applied on the host, and does not know the guest's paths.
        Grant {
            target: Some(grant.target.clone()),
            protect: grant.protect.clone(),
            unprotected: grant.unprotected.clone(),
            guard: GuardRule::Waive,
            ..Grant::new(path, grant.access)
        }
    };
    grants.iter().zip(places).map(shown).collect()
}

/// Rules that determine which paths of the host may be changed. They match those of a sandbox that uses the grants directly, in
/// which a deeper mount covers a shallower one.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules {
    grants: Vec<GrantPlan>,
    /// Paths in the sandbox that may not be changed.
    protected: Vec<PathBuf>,
}

impl Rules {
    /// Creates the rules. `exists` returns whether a path of the host exists; paths that do not exist are not protected.
    pub fn new(grants: &[GrantPlan], exists: impl Fn(&Path) -> bool) -> Self {
        let mut rules = Self { grants: grants.to_vec(), protected: Vec::new() };
        let places = grants.iter().flat_map(|grant| grant.protect.iter().map(|relative| grant.target.join(relative)));
        let there = |place: &PathBuf| {
            rules.shown_at(place).is_some_and(|grant| exists(&grant.path.join(relative_to(place, &grant.target))))
        };
        let protected = places.filter(there).collect();
        rules.protected = protected;
        rules
    }

    /// Returns the grant that is visible at a path in the sandbox.
    fn shown_at(&self, place: &Path) -> Option<&GrantPlan> {
        // Grants are sorted with parents first; of two grants at the same target, the later one covers the other.
        self.grants.iter().rfind(|grant| place.starts_with(&grant.target))
    }

    /// Returns true if `what` may be created at this path of the host: the path must be visible and writable in the sandbox, and
    /// protected nowhere. A granted path itself is a mount point in the sandbox: its content may change, but it can be neither
    /// removed nor replaced by a link.
    pub fn allow(&self, path: &Path, what: &Content) -> bool {
        let mut allowed = false;
        for grant in self.grants.iter().filter(|grant| path.starts_with(&grant.path)) {
            let place = grant.target.join(relative_to(path, &grant.path));
            let place = place.components().as_path();
            if self.shown_at(place) != Some(grant) {
                continue;
            }
            if self.protected.iter().any(|protected| place.starts_with(protected)) {
                return false;
            }
            allowed |= grant.access == Access::ReadWrite && (path != grant.path || what.keeps_place());
        }
        allowed
    }
}

fn relative_to<'a>(path: &'a Path, root: &Path) -> &'a Path {
    path.strip_prefix(root).unwrap_or(Path::new(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(path: &str, target: &str, access: Access, protect: &[&str]) -> GrantPlan {
        let protect = protect.iter().map(PathBuf::from).collect();
        GrantPlan { protect, owner: (1, 1), ..GrantPlan::new(path, target, access) }
    }

    #[test]
    fn nested_grant_shares_copy_unless_owner_differs() {
        use Access::{ReadOnly, ReadWrite};
        let mut grants = vec![
            grant("/w/a/b", "/x", ReadWrite, &[]),
            grant("/w", "/w", ReadOnly, &[]),
            grant("/w/other", "/w/other", ReadOnly, &[]),
            grant("/f", "/f", ReadOnly, &[]),
        ];
        grants[2].owner = (2, 2);
        let (copies, places) = copied(&grants, |path| path == Path::new("/f"));
        let made = |directory: &str, only: Option<&str>, owner, writable| Copied {
            directory: directory.into(),
            only: only.map(Into::into),
            owner: (owner, owner),
            writable,
            object: ObjectId::default(),
        };
        let wanted = [made("/w", None, 1, true), made("/", Some("f"), 1, false), made("/w/other", None, 2, false)];
        assert_eq!((copies.as_slice(), places.as_slice()), (&wanted[..], &[0, 0, 2, 1][..]));
        let at: Vec<_> = places.iter().map(|number| (PathBuf::from(format!("/c/{number}")), &copies[*number])).collect();
        let shown: Vec<_> = inside(&grants, &at).into_iter().map(|grant| (grant.path, grant.target.unwrap())).collect();
        let wanted = [("/c/0/a/b", "/x"), ("/c/0", "/w"), ("/c/2", "/w/other"), ("/c/1/f", "/f")];
        assert_eq!(shown, wanted.map(|(path, target)| (path.into(), target.into())));
    }

    fn file() -> Content {
        Content::File { mode: 0o644, modified: (0, 0), size: 0 }
    }

    #[test]
    fn granted_path_itself_is_neither_removed_nor_replaced_by_link() {
        let link = Content::Link { to: b"/elsewhere".to_vec() };
        let grants = [grant("/w", "/w", Access::ReadWrite, &[]), grant("/w/f", "/w/f", Access::ReadWrite, &[])];
        let rules = Rules::new(&grants, |_| true);
        let path = Path::new("/w/f");
        assert!(rules.allow(path, &file()) && !rules.allow(path, &link) && !rules.allow(path, &Content::Nothing));
        assert!(rules.allow(Path::new("/w/g"), &link));
        // Where the file is visible as part of another grant, it can be removed.
        let elsewhere = [grants[0].clone(), grant("/w/f", "/f", Access::ReadWrite, &[])];
        assert!(Rules::new(&elsewhere, |_| true).allow(path, &Content::Nothing));
    }

    #[test]
    fn only_paths_writable_in_sandbox_may_change() {
        use Access::{ReadOnly, ReadWrite};
        let grants = [
            grant("/w", "/w", ReadWrite, &[".git/hooks", ".envrc"]),
            grant("/r", "/r", ReadOnly, &[]),
            grant("/w/.git", "/w/.git", ReadWrite, &[]),
            grant("/w/ro", "/w/ro", ReadOnly, &[]),
            grant("/w/ro/rw", "/w/ro/rw", ReadWrite, &[]),
        ];
        let rules = Rules::new(&grants, |path| path != Path::new("/w/.envrc"));
        for path in ["/w/x", "/w/.git/config", "/w/.git/hooksx", "/w/ro/rw/x", "/w/.envrc", "/w/rox"] {
            assert!(rules.allow(Path::new(path), &file()), "{path}");
        }
        for path in ["/w/.git/hooks", "/w/.git/hooks/pre-commit", "/w/ro", "/w/ro/x", "/r/x", "/r", "/etc/passwd", "/"] {
            assert!(!rules.allow(Path::new(path), &file()), "{path}");
        }
    }

    #[test]
    fn rules_of_remapped_grants_follow_their_targets() {
        let grants = [grant("/a", "/in", Access::ReadOnly, &[]), grant("/a/b", "/in/b", Access::ReadWrite, &["p"])];
        let rules = Rules::new(&grants, |_| true);
        let allow = |path: &str| rules.allow(Path::new(path), &file());
        assert!(allow("/a/b/x") && !allow("/a/x") && !allow("/a/b/p/x"));
    }
}
