//! Which directories are copied for a list of grants, what the guest's sandbox is granted of the copies, and what of the host may be
//! changed. Values only.

use super::entry::What;
use agentd_core::{Access, Grant};
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
    /// The file in it, where a file was granted.
    pub only: Option<OsString>,
    /// User and group whose rights are enough to read it, and to change it.
    pub owner: (u32, u32),
    /// Whether any of it may be changed.
    pub writable: bool,
}

impl Copied {
    /// What was granted.
    fn path(&self) -> PathBuf {
        self.only.as_ref().map_or_else(|| self.directory.clone(), |only| self.directory.join(only))
    }
}

/// The copies that these grants take, and for each grant the number of the one that it is in. One that lies in another, of the same owner,
/// is in the copy of that, so that there is one of each file. `is_file` says which paths are files.
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
            copies.push(Copied { directory, only, owner: grant.owner, writable: false });
            copies.len() - 1
        });
        copies[places[number]].writable |= grant.access == Access::ReadWrite;
    }
    (copies, places)
}

/// What the guest's sandbox is granted, where the copies are at `places`, one for each grant with the directory that it is a copy of.
pub(super) fn inside(grants: &[GrantPlan], places: &[(PathBuf, &Copied)]) -> Vec<Grant> {
    let shown = |(grant, (place, copy)): (&GrantPlan, &(PathBuf, &Copied))| {
        let relative = grant.path.strip_prefix(&copy.directory).unwrap_or(Path::new(""));
        // Joined with nothing, a path gets a slash that a file must not have.
        let path = if relative.as_os_str().is_empty() { place.clone() } else { place.join(relative) };
        Grant { path, target: Some(grant.target.clone()), access: grant.access, protect: grant.protect.clone() }
    };
    grants.iter().zip(places).map(shown).collect()
}

/// What of the host may be changed: as in a sandbox that is shown the grants themselves, where what lies deeper covers what it lies in.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules {
    grants: Vec<GrantPlan>,
    /// Places inside that stay as they are.
    protected: Vec<PathBuf>,
}

impl Rules {
    /// `exists` says which paths of the host exist: what does not is not protected.
    pub fn new(grants: &[GrantPlan], exists: impl Fn(&Path) -> bool) -> Self {
        let mut rules = Self { grants: grants.to_vec(), protected: Vec::new() };
        let places = grants.iter().flat_map(|grant| grant.protect.iter().map(|relative| grant.target.join(relative)));
        let there =
            |place: &PathBuf| rules.shown_at(place).is_some_and(|grant| exists(&grant.path.join(below(place, &grant.target))));
        let protected = places.filter(there).collect();
        rules.protected = protected;
        rules
    }

    /// The grant that is seen at a place inside.
    fn shown_at(&self, place: &Path) -> Option<&GrantPlan> {
        // Parents come first; of two at the same place, the later one covers the other.
        self.grants.iter().rfind(|grant| place.starts_with(&grant.target))
    }

    /// Whether this may come to be at this path of the host: that is seen somewhere where it can be written to, and protected nowhere. What
    /// was granted itself is a mount point inside: what it holds can be changed, but it can be neither removed nor made a link.
    pub fn allow(&self, path: &Path, what: &What) -> bool {
        let mut allowed = false;
        for grant in self.grants.iter().filter(|grant| path.starts_with(&grant.path)) {
            let place = grant.target.join(below(path, &grant.path));
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

fn below<'a>(path: &'a Path, root: &Path) -> &'a Path {
    path.strip_prefix(root).unwrap_or(Path::new(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(path: &str, target: &str, access: Access, protect: &[&str]) -> GrantPlan {
        let protect = protect.iter().map(PathBuf::from).collect();
        GrantPlan { path: path.into(), target: target.into(), access, protect, owner: (1, 1) }
    }

    #[test]
    fn a_grant_in_another_is_in_its_copy_unless_it_is_somebody_elses() {
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
        };
        let wanted = [made("/w", None, 1, true), made("/", Some("f"), 1, false), made("/w/other", None, 2, false)];
        assert_eq!((copies.as_slice(), places.as_slice()), (&wanted[..], &[0, 0, 2, 1][..]));
        let at: Vec<_> = places.iter().map(|number| (PathBuf::from(format!("/c/{number}")), &copies[*number])).collect();
        let shown: Vec<_> = inside(&grants, &at).into_iter().map(|grant| (grant.path, grant.target.unwrap())).collect();
        let wanted = [("/c/0/a/b", "/x"), ("/c/0", "/w"), ("/c/2", "/w/other"), ("/c/1/f", "/f")];
        assert_eq!(shown, wanted.map(|(path, target)| (path.into(), target.into())));
    }

    fn file() -> What {
        What::File { mode: 0o644, modified: (0, 0), size: 0 }
    }

    #[test]
    fn what_was_granted_itself_stays_what_it_is() {
        let link = What::Link { to: b"/elsewhere".to_vec() };
        let grants = [grant("/w", "/w", Access::ReadWrite, &[]), grant("/w/f", "/w/f", Access::ReadWrite, &[])];
        let rules = Rules::new(&grants, |_| true);
        let path = Path::new("/w/f");
        assert!(rules.allow(path, &file()) && !rules.allow(path, &link) && !rules.allow(path, &What::Nothing));
        assert!(rules.allow(Path::new("/w/g"), &link));
        // Where it is seen as part of another grant, it can be removed there.
        let elsewhere = [grants[0].clone(), grant("/w/f", "/f", Access::ReadWrite, &[])];
        assert!(Rules::new(&elsewhere, |_| true).allow(path, &What::Nothing));
    }

    #[test]
    fn only_what_could_be_written_to_may_be_changed() {
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
    fn what_is_shown_elsewhere_is_known_by_where_it_is_seen() {
        let grants = [grant("/a", "/in", Access::ReadOnly, &[]), grant("/a/b", "/in/b", Access::ReadWrite, &["p"])];
        let rules = Rules::new(&grants, |_| true);
        let allow = |path: &str| rules.allow(Path::new(path), &file());
        assert!(allow("/a/b/x") && !allow("/a/x") && !allow("/a/b/p/x"));
    }
}
