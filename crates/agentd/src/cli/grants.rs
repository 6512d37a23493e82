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

/// Tool installations below a home directory: what must be on the caller's `PATH`, and what is then granted read-only.
const TOOLS: [(&str, &[&str]); 11] = [
    (".cargo/bin", &[".cargo/bin", ".rustup"]),
    (".pyenv", &[".pyenv"]),
    (".nvm", &[".nvm"]),
    (".volta", &[".volta"]),
    (".asdf", &[".asdf"]),
    (".local/bin", &[".local/bin", ".local/share/uv", ".local/share/pipx"]),
    (".local/share/mise", &[".local/share/mise"]),
    (".deno/bin", &[".deno/bin"]),
    (".bun/bin", &[".bun/bin"]),
    ("go/bin", &["go/bin"]),
    (".sdkman", &[".sdkman"]),
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
    Ok(Grant { path: resolved, access, protect })
}

/// Read-only grants for tools of the caller's that are on `path` and below `home`.
pub(crate) fn tools(home: &Path, path: &OsStr) -> Vec<Grant> {
    let entries: Vec<PathBuf> = std::env::split_paths(path).collect();
    let mut found: Vec<PathBuf> = Vec::new();
    for (marker, granted) in TOOLS {
        if entries.iter().any(|entry| entry.starts_with(home.join(marker))) {
            let existing =
                granted.iter().map(|g| home.join(g)).filter_map(|g| g.canonicalize().ok()).filter(|g| g.starts_with(home));
            found.extend(existing);
        }
    }
    found.dedup();
    found.into_iter().map(|path| Grant { path, access: Access::ReadOnly, protect: Vec::new() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(tools(&home, OsStr::new("/usr/bin")).is_empty());
        let path = home.join(".cargo/bin").into_os_string();
        let granted: Vec<_> = tools(&home, &path).into_iter().map(|g| g.path).collect();
        assert_eq!(granted, [home.join(".cargo/bin"), home.join(".rustup")]);
    }
}
