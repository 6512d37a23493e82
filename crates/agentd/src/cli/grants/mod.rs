//! Grants of a run: the workspace, and the host paths that the caller names.

pub(crate) use agentd_isolation::grants::Guard;

use super::suggestions;
use agentd_core::{Access, Grant, GuardRule, IsolationError};
use agentd_isolation::{
    grants::{Found, Links, find},
    protect::{self, NotReleased},
};
use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// The grants that the caller requested.
pub(crate) struct GrantRequests<'a> {
    /// The workspace, if any.
    pub workspace: Option<&'a Path>,
    /// True if the workspace is read-only.
    pub workspace_ro: bool,
    /// Further read-only paths, `PATH` or `PATH:TARGET`.
    pub ro: &'a [PathBuf],
    /// Further read-write paths, `PATH` or `PATH:TARGET`.
    pub rw: &'a [PathBuf],
    /// Protected paths to release, so that the command may change them: absolute, or below the workspace.
    pub unprotect: &'a [PathBuf],
    /// Rules for paths that are never granted.
    pub guard: &'a Guard,
    /// The rule for symbolic links that a payload may have created.
    pub links: Links,
}

/// Grants, and notes about them.
#[derive(Debug)]
pub(crate) struct Granted {
    /// The grants.
    pub grants: Vec<Grant>,
    /// A note for each path that contains a symbolic link, with the path to which it leads.
    pub notes: Vec<String>,
}

/// Resolves the requested grants.
///
/// # Errors
/// [`IsolationError::Invalid`] for a path that cannot be granted or released.
pub(crate) fn plan(requests: &GrantRequests<'_>) -> Result<Granted, IsolationError> {
    let (mut grants, mut notes) = (Vec::new(), Vec::new());
    let mut add = |path: &Path, target: Option<&Path>, access| -> Result<(), IsolationError> {
        let requested = Grant { target: target.map(Path::to_path_buf), ..Grant::new(path, access) };
        let (grant, linked) = grant(requested, requests)?;
        if linked {
            notes.push(format!(
                "note: {} leads to {} by a symbolic link, which is followed",
                path.display(),
                grant.path.display()
            ));
        }
        grants.push(grant);
        Ok(())
    };
    if let Some(workspace) = requests.workspace {
        let access = if requests.workspace_ro { Access::ReadOnly } else { Access::ReadWrite };
        add(workspace, None, access)?;
    }
    for (paths, access) in [(requests.ro, Access::ReadOnly), (requests.rw, Access::ReadWrite)] {
        for requested in paths {
            let (path, target) = split(requested);
            add(path, target, access)?;
        }
    }
    release(&mut grants, requests)?;
    Ok(Granted { grants, notes })
}

/// Releases protected paths. A relative path is relative to the workspace or, without a workspace, to the only read-write grant.
fn release(grants: &mut [Grant], requests: &GrantRequests<'_>) -> Result<(), IsolationError> {
    let mut writable = grants.iter().filter(|grant| grant.access == Access::ReadWrite).map(|grant| grant.path.clone());
    let base = match requests.workspace {
        Some(_) => grants.first().map(|grant| grant.path.clone()),
        None => writable.next().filter(|_| writable.next().is_none()),
    };
    for name in requests.unprotect {
        let refuse = |reason: String| IsolationError::Invalid { what: format!("--unprotect {}", name.display()), reason };
        let path = match &base {
            _ if name.is_absolute() => name.clone(),
            Some(base) => base.join(name),
            None => return Err(refuse("there is no workspace — use an absolute path".to_owned())),
        };
        protect::release(grants, &path).map_err(|reason| refuse(not_released(name, &reason)))?;
    }
    Ok(())
}

/// Returns the reason why a path was not released, with the protected paths that have a similar name.
fn not_released(name: &Path, reason: &NotReleased) -> String {
    let NotReleased::NotProtected(protected) = reason else { return reason.to_string() };
    let spelled = || protected.iter().map(|path| path.display().to_string());
    let end = name.file_name().unwrap_or_default();
    let same_end = protected.iter().position(|path| path.file_name().is_some_and(|own| own.eq_ignore_ascii_case(end)));
    match same_end.and_then(|same| spelled().nth(same)).or_else(|| suggestions::nearest(&name.to_string_lossy(), spelled())) {
        Some(near) => format!("{reason}. Did you mean {near}?"),
        None => reason.to_string(),
    }
}

/// Splits a request into its path and the target in the sandbox. If a file with the whole name exists, including the colon, the
/// request has no target.
pub(crate) fn split(requested: &Path) -> (&Path, Option<&Path>) {
    let bytes = requested.as_os_str().as_bytes();
    let colon = bytes.windows(2).rposition(|pair| pair == b":/");
    match colon {
        Some(colon) if requested.symlink_metadata().is_err() => {
            let path = |bytes| Path::new(OsStr::from_bytes(bytes));
            (path(&bytes[..colon]), Some(path(&bytes[colon + 1..])))
        }
        _ => (requested, None),
    }
}

/// Resolves `requested` to the object to which its path leads. The second value is true if the path contains a symbolic link.
fn grant(requested: Grant, requests: &GrantRequests<'_>) -> Result<(Grant, bool), IsolationError> {
    let refuse = |reason: String| IsolationError::Invalid { what: format!("path {}", requested.path.display()), reason };
    let whole = std::path::absolute(&requested.path).map_err(|error| refuse(error.to_string()))?;
    let Found { path, object, linked, .. } = find(&whole, requests.guard, requests.links)?;
    if let Some(reason) = requests.guard.refusal(&path).filter(|_| requested.guard == GuardRule::Apply) {
        return Err(refuse(reason));
    }
    let protect = match requested.access {
        Access::ReadOnly | Access::CopyOnWrite => Vec::new(),
        Access::ReadWrite => protect::names(&path).map_err(refuse)?,
    };
    Ok((Grant { path, protect, object: Some(object), ..requested }, linked))
}

/// Resolves a grant again. Paths that the caller released from protection stay released.
///
/// # Errors
/// [`IsolationError::Invalid`] if the path can no longer be granted.
pub(crate) fn again(old: &Grant, guard: &Guard, links: Links) -> Result<Grant, IsolationError> {
    let requests = GrantRequests { workspace: None, workspace_ro: false, ro: &[], rw: &[], unprotect: &[], guard, links };
    // Without an explicit target, the grant must stay visible at its old path.
    let target = Some(old.target.clone().unwrap_or_else(|| old.path.clone()));
    let mut new = grant(Grant { target, object: None, ..old.clone() }, &requests)?.0;
    // Paths that git has begun to use since then are protected at every start, independent of this list.
    new.protect.retain(|name| old.protect.contains(name));
    new.unprotected.clone_from(&old.unprotected);
    Ok(new)
}

/// Copies the identities of the first attempt's objects to the grants of a second attempt. An object that was replaced in the
/// meantime is then rejected when it is opened.
pub(crate) fn keep_objects(first: &[Grant], second: &mut [Grant]) {
    for grant in second {
        if let Some(earlier) = first.iter().find(|earlier| earlier.path == grant.path) {
            grant.object.clone_from(&earlier.object);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn planned(workspace: &Path, home: &Path) -> Result<Vec<Grant>, IsolationError> {
        let guard = Guard::for_home(Some(home.as_os_str()));
        let requests = GrantRequests {
            workspace: Some(workspace),
            workspace_ro: false,
            ro: &[],
            rw: &[],
            unprotect: &[],
            guard: &guard,
            links: Links::Follow,
        };
        plan(&requests).map(|granted| granted.grants)
    }

    #[test]
    fn project_is_granted_with_hooks_protected() {
        let home = tempfile::tempdir().unwrap();
        let project = home.path().join("project");
        std::fs::create_dir(&project).unwrap();
        let grants = planned(&project, home.path()).unwrap();
        assert_eq!(grants.len(), 1);
        assert!(grants[0].protect.contains(&PathBuf::from(".git/hooks")));
    }

    #[test]
    fn path_wider_than_a_project_is_refused() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".ssh")).unwrap();
        let link = home.path().join("link");
        std::os::unix::fs::symlink("/", &link).unwrap();
        let parent = home.path().parent().unwrap().to_path_buf();
        for path in [PathBuf::from("/"), "/etc".into(), home.path().to_path_buf(), parent, home.path().join(".ssh"), link] {
            assert!(planned(&path, home.path()).is_err(), "{}", path.display());
        }
    }

    #[test]
    fn grant_resolved_again_keeps_unprotected_paths_and_guard_rule() {
        let home = tempfile::tempdir().unwrap();
        let project = home.path().join("project");
        std::fs::create_dir(&project).unwrap();
        std::fs::create_dir(home.path().join(".ssh")).unwrap();
        let guard = Guard::for_home(Some(home.path().as_os_str()));
        let mut old = planned(&project, home.path()).unwrap().remove(0);
        let released = old.path.join(".git/config");
        protect::release(std::slice::from_mut(&mut old), &released).unwrap();
        let new = again(&old, &guard, Links::Refuse).unwrap();
        assert_eq!((new.protect, new.unprotected), (old.protect.clone(), vec![".git/config".into()]));
        let secret = Grant { guard: GuardRule::Waive, ..Grant::new(home.path().join(".ssh"), Access::ReadOnly) };
        assert_eq!(again(&secret, &guard, Links::Refuse).unwrap().guard, GuardRule::Waive);
        assert!(again(&Grant { guard: GuardRule::Apply, ..secret }, &guard, Links::Refuse).is_err());
    }

    #[test]
    fn second_attempt_keeps_the_objects_of_the_first() {
        let home = tempfile::tempdir().unwrap();
        let project = home.path().join("project");
        let grants = || {
            std::fs::create_dir(&project).unwrap();
            planned(&project, home.path()).unwrap()
        };
        let first = grants();
        std::fs::rename(&project, home.path().join("moved")).unwrap();
        let mut second = grants();
        keep_objects(&first, &mut second);
        assert_eq!(second[0].object, first[0].object);
        let mut spec = agentd_core::SandboxSpec { grants: second, ..agentd_core::SandboxSpec::default() };
        assert!(matches!(agentd_isolation::grants::pin(&mut spec), Err(IsolationError::GrantChanged(_))));
    }

    #[test]
    fn split_takes_target_after_last_colon_unless_path_exists() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("a:");
        std::fs::create_dir_all(directory.join("b")).unwrap();
        let colon = directory.join("b");
        let moved = colon.display().to_string() + ":/x:y";
        for (requested, path, target) in [
            ("/w", "/w", None),
            ("/w:/t", "/w", Some("/t")),
            ("w:/t/u", "w", Some("/t/u")),
            ("/no:/w:/t", "/no:/w", Some("/t")),
            ("/w:t", "/w:t", None),
            (colon.to_str().unwrap(), colon.to_str().unwrap(), None),
            (&moved, colon.to_str().unwrap(), Some("/x:y")),
        ] {
            assert_eq!(split(Path::new(requested)), (Path::new(path), target.map(Path::new)), "{requested}");
        }
    }

    /// Generates a tree of directories and of links that lead anywhere: into the tree, above it, or nowhere. Returns the steps
    /// that create it.
    fn tree() -> impl Strategy<Value = Vec<(String, Option<String>)>> {
        let name = "[abs](/[abs]){0,2}";
        let target =
            prop_oneof![Just("..".to_owned()), Just("/".to_owned()), Just(".ssh".to_owned()), Just("nowhere".to_owned()), name];
        prop::collection::vec((name, prop::option::of(target)), 0..20)
    }

    proptest! {
        #[test]
        fn grant_through_any_links_is_never_wider_than_a_project(steps in tree(), wanted in "[abs](/[abs]){0,3}") {
            let root = tempfile::tempdir().unwrap();
            let home = root.path().canonicalize().unwrap().join("home");
            std::fs::create_dir_all(home.join(".ssh/deep")).unwrap();
            for (path, link) in steps {
                let path = home.join(path);
                // Paths that contain a link, or that already exist, are skipped.
                let parent = path.parent().unwrap();
                if parent.canonicalize().is_ok_and(|real| real == parent) {
                    match link {
                        None => std::fs::create_dir(path).ok(),
                        Some(target) => std::os::unix::fs::symlink(target, path).ok(),
                    };
                }
            }
            if let Ok(grants) = planned(&home.join(wanted), &home) {
                let path = &grants[0].path;
                prop_assert_eq!(path.canonicalize().unwrap(), path.clone(), "links are resolved");
                prop_assert!(!home.starts_with(path), "{:?} contains the home directory", path);
                prop_assert!(!path.starts_with(home.join(".ssh")), "{:?} contains secrets", path);
            }
        }
    }
}
