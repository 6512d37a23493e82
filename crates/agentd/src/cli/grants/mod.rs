//! What of the host a run may use: the workspace, what the caller names, and the tools on the caller's path.

use agentd_core::{Access, Grant, IsolationError};
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

/// Paths in a workspace that the trusted side outside executes or obeys later: hooks and settings of git, shells, editors and
/// agents. They stay read-only where they exist.
const PROTECTED: [&str; 22] = [
    // Programs that git runs, and settings that name programs (core.fsmonitor, core.sshCommand, filters).
    ".git/hooks",
    ".git/config",
    ".git/info/attributes",
    ".git/config.worktree",
    ".gitmodules",
    ".gitconfig",
    // Read by shells, and by direnv on entering the directory.
    ".bashrc",
    ".bash_profile",
    ".profile",
    ".zshrc",
    ".zprofile",
    ".zshenv",
    ".envrc",
    // Tasks, extensions and hooks of editors and agents.
    ".vscode",
    ".idea",
    ".cursor",
    ".claude",
    ".mcp.json",
    ".vimrc",
    ".exrc",
    ".nvimrc",
    ".nvim.lua",
];

/// Directories that hold a user's secrets or everything; none of them is a workspace.
const NEVER: [&str; 18] = [
    "/", "/home", "/root", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/boot", "/dev", "/proc", "/sys", "/run", "/var",
    "/opt", "/mnt", "/srv",
];

/// Secrets below a home directory.
const SECRETS: [&str; 12] = [
    ".ssh",
    ".aws",
    ".gnupg",
    ".kube",
    ".docker",
    ".netrc",
    ".npmrc",
    ".pypirc",
    ".azure",
    ".config/gcloud",
    ".config/gh",
    ".local/share/keyrings",
];

/// A tool installation below a home directory.
struct Tool {
    /// What must be on the caller's `PATH`.
    marker: &'static str,
    /// What is then granted read-only.
    granted: &'static [&'static str],
    /// The variable by which the tool finds the first of these from another home, and its value below the caller's.
    variable: Option<(&'static str, &'static str)>,
}

const TOOLS: [Tool; 11] = [
    Tool { marker: ".cargo/bin", granted: &[".cargo/bin", ".rustup"], variable: Some(("RUSTUP_HOME", ".rustup")) },
    Tool { marker: ".pyenv", granted: &[".pyenv"], variable: Some(("PYENV_ROOT", ".pyenv")) },
    Tool { marker: ".nvm", granted: &[".nvm"], variable: Some(("NVM_DIR", ".nvm")) },
    Tool { marker: ".volta", granted: &[".volta"], variable: Some(("VOLTA_HOME", ".volta")) },
    Tool { marker: ".asdf", granted: &[".asdf"], variable: Some(("ASDF_DATA_DIR", ".asdf")) },
    Tool { marker: ".local/bin", granted: &[".local/bin", ".local/share/uv", ".local/share/pipx"], variable: None },
    Tool { marker: ".local/share/mise", granted: &[".local/share/mise"], variable: Some(("MISE_DATA_DIR", ".local/share/mise")) },
    Tool { marker: ".deno/bin", granted: &[".deno/bin"], variable: None },
    Tool { marker: ".bun/bin", granted: &[".bun/bin"], variable: None },
    Tool { marker: "go/bin", granted: &["go/bin"], variable: None },
    Tool { marker: ".sdkman", granted: &[".sdkman"], variable: Some(("SDKMAN_DIR", ".sdkman")) },
];

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
    /// The caller's home directory.
    pub home: Option<&'a Path>,
}

/// The grants for what the caller asked for.
pub(crate) fn plan(wishes: &Wishes<'_>) -> Result<Vec<Grant>, IsolationError> {
    let mut grants = Vec::new();
    if let Some(workspace) = wishes.workspace {
        let access = if wishes.workspace_ro { Access::ReadOnly } else { Access::ReadWrite };
        grants.push(grant(workspace, access, wishes.home)?);
    }
    for path in wishes.ro {
        grants.push(grant(path, Access::ReadOnly, wishes.home)?);
    }
    for path in wishes.rw {
        grants.push(grant(path, Access::ReadWrite, wishes.home)?);
    }
    Ok(grants)
}

fn grant(path: &Path, access: Access, home: Option<&Path>) -> Result<Grant, IsolationError> {
    let refuse = |reason: String| IsolationError::Invalid { what: format!("path {}", path.display()), reason };
    let resolved = path.canonicalize().map_err(|e| refuse(e.to_string()))?;
    let home = home.and_then(|h| h.canonicalize().ok());
    let too_much = NEVER.iter().any(|n| resolved == Path::new(n)) || home.as_ref().is_some_and(|h| h.starts_with(&resolved));
    if too_much {
        return Err(refuse(
            "it holds more than a project: go into a project's directory, name one with --workspace DIR, or use --workspace none"
                .to_owned(),
        ));
    }
    let secret = home.as_ref().and_then(|h| SECRETS.iter().find(|s| resolved.starts_with(h.join(s))));
    if let Some(secret) = secret {
        return Err(refuse(format!("~/{secret} holds secrets: copy what the command needs into a directory of its own")));
    }
    let protect = if access == Access::ReadWrite { PROTECTED.iter().map(PathBuf::from).collect() } else { Vec::new() };
    Ok(Grant { path: resolved, target: None, access, protect })
}

/// What tools of the caller's need that are on `path` and below `home`: read-only grants, and variables.
pub(crate) fn tools(home: &Path, path: &OsStr) -> (Vec<Grant>, Vec<(&'static str, PathBuf)>) {
    let entries: Vec<PathBuf> = std::env::split_paths(path).collect();
    let mut found: Vec<PathBuf> = Vec::new();
    let mut variables = Vec::new();
    for tool in TOOLS.iter().filter(|tool| entries.iter().any(|entry| entry.starts_with(home.join(tool.marker)))) {
        let existing =
            tool.granted.iter().map(|g| home.join(g)).filter_map(|g| g.canonicalize().ok()).filter(|g| g.starts_with(home));
        found.extend(existing);
        variables.extend(tool.variable.map(|(name, place)| (name, home.join(place))));
    }
    found.dedup();
    (
        found.into_iter().map(|path| Grant { path, target: None, access: Access::ReadOnly, protect: Vec::new() }).collect(),
        variables,
    )
}

/// Protected paths of a read-write grant that are not there, and so can be made. What appears at them while a command runs is
/// worth a warning.
pub(crate) fn unprotected(grants: &[Grant]) -> Vec<PathBuf> {
    let paths = grants.iter().flat_map(|grant| grant.protect.iter().map(|name| grant.path.join(name)));
    paths.filter(|path| path.symlink_metadata().is_err()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wishes<'a>(workspace: &'a Path, home: &'a Path) -> Wishes<'a> {
        Wishes { workspace: Some(workspace), workspace_ro: false, ro: &[], rw: &[], home: Some(home) }
    }

    #[test]
    fn a_project_is_granted_with_its_hooks_protected() {
        let home = tempfile::tempdir().unwrap();
        let project = home.path().join("project");
        std::fs::create_dir(&project).unwrap();
        let grants = plan(&wishes(&project, home.path())).unwrap();
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
            assert!(plan(&wishes(&path, home.path())).is_err(), "{}", path.display());
        }
    }

    #[test]
    fn tools_are_granted_only_when_they_are_on_the_path() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path().canonicalize().unwrap();
        std::fs::create_dir_all(home.join(".cargo/bin")).unwrap();
        std::fs::create_dir_all(home.join(".rustup")).unwrap();
        assert!(tools(&home, OsStr::new("/usr/bin")).0.is_empty());
        let path = home.join(".cargo/bin").into_os_string();
        let (grants, variables) = tools(&home, &path);
        assert_eq!(grants.into_iter().map(|g| g.path).collect::<Vec<_>>(), [home.join(".cargo/bin"), home.join(".rustup")]);
        assert_eq!(variables, [("RUSTUP_HOME", home.join(".rustup"))]);
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
            if let Ok(grants) = plan(&wishes(&home.join(wanted), &home)) {
                let path = &grants[0].path;
                prop_assert_eq!(path.canonicalize().unwrap(), path.clone(), "links are resolved");
                prop_assert!(!home.starts_with(path), "{:?} holds the home", path);
                prop_assert!(!path.starts_with(home.join(".ssh")), "{:?} holds secrets", path);
                prop_assert!(!NEVER.iter().any(|n| path == Path::new(n)), "{:?}", path);
            }
        }
    }
}
