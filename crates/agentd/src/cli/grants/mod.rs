//! What of the host a run may use: the workspace, what the caller names, and the tools on the caller's path.

mod guard;
mod protected;
mod tools;

pub(crate) use guard::Guard;
pub(crate) use protected::unprotected;
pub(crate) use tools::tools;

use agentd_core::{Access, Grant, IsolationError};
use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// What the caller asked for.
pub(crate) struct Wishes<'a> {
    /// The workspace; `None` for none.
    pub workspace: Option<&'a Path>,
    /// Whether it may be read only.
    pub workspace_ro: bool,
    /// More to read.
    pub ro: &'a [PathBuf],
    /// More to change.
    pub rw: &'a [PathBuf],
    /// What is never granted.
    pub guard: &'a Guard,
}

/// The grants for what the caller asked for.
pub(crate) fn plan(wishes: &Wishes<'_>) -> Result<Vec<Grant>, IsolationError> {
    let mut grants = Vec::new();
    if let Some(workspace) = wishes.workspace {
        let access = if wishes.workspace_ro { Access::ReadOnly } else { Access::ReadWrite };
        grants.push(grant(workspace, None, access, wishes.guard)?);
    }
    for (paths, access) in [(wishes.ro, Access::ReadOnly), (wishes.rw, Access::ReadWrite)] {
        for wish in paths {
            let (path, target) = split(wish);
            grants.push(grant(path, target, access, wishes.guard)?);
        }
    }
    Ok(grants)
}

/// The path of a wish, and where it is to be shown. A path that exists as it is written, colon included, is that path.
pub(crate) fn split(wish: &Path) -> (&Path, Option<&Path>) {
    let bytes = wish.as_os_str().as_bytes();
    let colon = bytes.windows(2).rposition(|pair| pair == b":/");
    match colon {
        Some(colon) if wish.symlink_metadata().is_err() => {
            let path = |bytes| Path::new(OsStr::from_bytes(bytes));
            (path(&bytes[..colon]), Some(path(&bytes[colon + 1..])))
        }
        _ => (wish, None),
    }
}

fn grant(path: &Path, target: Option<&Path>, access: Access, guard: &Guard) -> Result<Grant, IsolationError> {
    let refuse = |reason: String| IsolationError::Invalid { what: format!("path {}", path.display()), reason };
    let resolved = path.canonicalize().map_err(|e| refuse(format!("{e}: create it, or drop the option")))?;
    if let Some(reason) = guard.refusal(&resolved) {
        return Err(refuse(reason));
    }
    let protect = match access {
        Access::ReadOnly => Vec::new(),
        Access::ReadWrite => protected::names(&resolved).map_err(refuse)?,
    };
    Ok(Grant { path: resolved, target: target.map(Path::to_path_buf), access, protect })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn planned(workspace: &Path, home: &Path) -> Result<Vec<Grant>, IsolationError> {
        let guard = Guard::of(Some(home.as_os_str()));
        plan(&Wishes { workspace: Some(workspace), workspace_ro: false, ro: &[], rw: &[], guard: &guard })
    }

    #[test]
    fn a_project_is_granted_with_its_hooks_protected() {
        let home = tempfile::tempdir().unwrap();
        let project = home.path().join("project");
        std::fs::create_dir(&project).unwrap();
        let grants = planned(&project, home.path()).unwrap();
        assert_eq!(grants.len(), 1);
        assert!(grants[0].protect.contains(&PathBuf::from(".git/hooks")));
    }

    #[test]
    fn what_holds_more_than_a_project_is_refused() {
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
    fn a_target_follows_the_last_colon_unless_the_path_is_there() {
        let root = tempfile::tempdir().unwrap();
        let there = root.path().join("a:");
        std::fs::create_dir_all(there.join("b")).unwrap();
        let there = there.join("b");
        let moved = there.display().to_string() + ":/x:y";
        for (wish, path, target) in [
            ("/w", "/w", None),
            ("/w:/t", "/w", Some("/t")),
            ("w:/t/u", "w", Some("/t/u")),
            ("/no:/w:/t", "/no:/w", Some("/t")),
            ("/w:t", "/w:t", None),
            (there.to_str().unwrap(), there.to_str().unwrap(), None),
            (&moved, there.to_str().unwrap(), Some("/x:y")),
        ] {
            assert_eq!(split(Path::new(wish)), (Path::new(path), target.map(Path::new)), "{wish}");
        }
    }

    /// A tree of directories and of links to anywhere in it, above it, or nowhere; its steps.
    fn tree() -> impl Strategy<Value = Vec<(String, Option<String>)>> {
        let name = "[abs](/[abs]){0,2}";
        let target =
            prop_oneof![Just("..".to_owned()), Just("/".to_owned()), Just(".ssh".to_owned()), Just("nowhere".to_owned()), name];
        prop::collection::vec((name, prop::option::of(target)), 0..20)
    }

    proptest! {
        #[test]
        fn whatever_links_say_no_grant_holds_more_than_a_project(steps in tree(), wanted in "[abs](/[abs]){0,3}") {
            let root = tempfile::tempdir().unwrap();
            let home = root.path().canonicalize().unwrap().join("home");
            std::fs::create_dir_all(home.join(".ssh/deep")).unwrap();
            for (path, link) in steps {
                let path = home.join(path);
                // Nothing is made through a link, nor where something is.
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
                prop_assert!(!home.starts_with(path), "{:?} holds the home", path);
                prop_assert!(!path.starts_with(home.join(".ssh")), "{:?} holds secrets", path);
            }
        }
    }
}
