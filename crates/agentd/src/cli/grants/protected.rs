//! What in a writable grant the trusted side outside executes or obeys later, and so stays as it is: hooks and settings of git, shells,
//! editors and agents. It is read-only where it exists; where it does not and a command makes it, the caller is told.

use agentd_core::Grant;
use std::{
    fs,
    path::{Component, Path, PathBuf},
};

/// What of a git directory names programs or is run: hooks, settings (core.fsmonitor, core.sshCommand, filters), and what says where
/// those are. `commondir` moves the settings elsewhere; `modules` and `worktrees` hold git directories in turn.
const GIT: [&str; 7] = ["hooks", "config", "config.worktree", "info/attributes", "commondir", "modules", "worktrees"];

/// What else of a workspace.
const WORKSPACE: [&str; 34] = [
    ".gitmodules",
    ".gitconfig",
    ".pre-commit-config.yaml",
    ".husky",
    // Read by shells, and by direnv on entering the directory.
    ".bashrc",
    ".bash_profile",
    ".bash_login",
    ".bash_aliases",
    ".profile",
    ".zshrc",
    ".zprofile",
    ".zshenv",
    ".zlogin",
    ".envrc",
    // Settings of build tools and debuggers that name programs.
    ".cargo/config.toml",
    ".cargo/config",
    ".yarnrc.yml",
    ".npmrc",
    ".gdbinit",
    // Tasks, extensions, hooks and instructions of editors and agents.
    ".vscode",
    ".idea",
    ".devcontainer",
    ".cursor",
    ".cursorrules",
    ".windsurfrules",
    ".claude",
    "CLAUDE.md",
    "AGENTS.md",
    ".github/copilot-instructions.md",
    ".mcp.json",
    ".vimrc",
    ".exrc",
    ".nvimrc",
    ".nvim.lua",
];

/// The largest settings file of git that is read.
const MOST_SETTINGS: u64 = 1 << 20;

/// Names below `grant` that stay read-only; or why all of it would have to.
pub(super) fn names(grant: &Path) -> Result<Vec<PathBuf>, String> {
    let mut names: Vec<PathBuf> = WORKSPACE.iter().map(PathBuf::from).collect();
    if grant.join(".git").is_file() {
        // Of a worktree or submodule: it says where the git directory is.
        names.push(".git".into());
    } else {
        names.extend(GIT.iter().map(|name| Path::new(".git").join(name)));
    }
    for repository in grant.ancestors() {
        let own = is_git_directory(repository).then(|| GIT.map(|name| repository.join(name))).into_iter().flatten();
        for place in own.chain(hooks_path(repository)) {
            if grant.starts_with(&place) {
                return Err(format!("git runs or obeys what is in {}: grant it with --ro", place.display()));
            }
            if let Ok(below) = place.strip_prefix(grant) {
                names.push(below.to_path_buf());
            }
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// As git tells them (`is_git_directory` in its setup.c).
fn is_git_directory(path: &Path) -> bool {
    ["HEAD", "objects", "refs"].iter().all(|part| path.join(part).exists())
}

/// Where the hooks of the repository at `root` are by its settings (`core.hooksPath`).
fn hooks_path(root: &Path) -> Option<PathBuf> {
    let settings = read(&git_directory(root)?.join("config"))?;
    let path = root.join(configured_hooks(&settings)?);
    // Git follows `..`; whether links are on the way is not known here, so what has one is passed over.
    let plain = path.components().all(|part| part != Component::ParentDir);
    plain.then(|| path.components().collect())
}

/// The directory with the settings of the repository at `root`: `.git`, or where that file leads (`gitrepository-layout(5)`).
fn git_directory(root: &Path) -> Option<PathBuf> {
    let git = root.join(".git");
    if git.is_dir() {
        return Some(git);
    }
    let own = root.join(read(&git)?.strip_prefix("gitdir:")?.trim());
    match read(&own.join("commondir")) {
        Some(common) => Some(own.join(common.trim())),
        None => Some(own),
    }
}

/// What an earlier command may have made: a pipe would never end.
fn read(file: &Path) -> Option<String> {
    let meta = file.metadata().ok()?;
    (meta.is_file() && meta.len() <= MOST_SETTINGS).then(|| fs::read_to_string(file).ok()).flatten()
}

/// The value of `hooksPath` in `[core]` (`git-config(1)`); the last one counts.
fn configured_hooks(settings: &str) -> Option<PathBuf> {
    let mut in_core = false;
    let mut found = None;
    for line in settings.lines() {
        let mut line = line.trim();
        if let Some((section, rest)) = line.strip_prefix('[').and_then(|line| line.split_once(']')) {
            in_core = section.trim().eq_ignore_ascii_case("core");
            line = rest.trim();
        }
        let Some((name, value)) = line.split_once('=') else { continue };
        if in_core && name.trim().eq_ignore_ascii_case("hookspath") {
            let value = value.split(['#', ';']).next().unwrap_or_default().trim().trim_matches('"');
            found = (!value.is_empty() && !value.starts_with('~')).then(|| PathBuf::from(value));
        }
    }
    found
}

/// Protected paths of the grants that are not there, and so can be made. What appears at them while a command runs is worth a
/// warning.
pub(crate) fn unprotected(grants: &[Grant]) -> Vec<PathBuf> {
    let writable = grants.iter().filter(|grant| !grant.protect.is_empty());
    let mut paths: Vec<PathBuf> = writable
        .flat_map(|grant| {
            // Made as a file it would say where the hooks are, made as a directory it would hold them.
            let git = grant.path.join(".git");
            let no_git = git.symlink_metadata().is_err();
            let names = grant.protect.iter().map(|name| grant.path.join(name)).filter(move |p| !(no_git && p.starts_with(&git)));
            names.chain(no_git.then(|| grant.path.join(".git"))).collect::<Vec<_>>()
        })
        .filter(|path| path.symlink_metadata().is_err())
        .collect();
    paths.dedup();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git_directory_at(path: &Path) {
        for part in ["objects", "refs", "hooks/deep", "info"] {
            fs::create_dir_all(path.join(part)).unwrap();
        }
        fs::write(path.join("HEAD"), "ref: refs/heads/main\n").unwrap();
        fs::write(path.join("config"), "[core]\n").unwrap();
    }

    fn protects(grant: &Path, name: &str) -> bool {
        names(grant).unwrap().contains(&PathBuf::from(name))
    }

    #[test]
    fn a_workspace_has_its_hooks_and_settings_protected() {
        let root = tempfile::tempdir().unwrap();
        for name in [".git/hooks", ".git/commondir", ".git/modules", ".cargo/config.toml", "AGENTS.md", ".bash_login", ".husky"] {
            assert!(protects(root.path(), name), "{name}");
        }
        assert!(!protects(root.path(), ".git"));
    }

    #[test]
    fn a_git_file_is_protected_itself() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(".git"), "gitdir: ../elsewhere\n").unwrap();
        assert!(protects(root.path(), ".git"));
        assert!(!protects(root.path(), ".git/hooks"));
    }

    #[test]
    fn a_grant_that_is_a_git_directory_or_in_one_has_its_hooks_protected() {
        let root = tempfile::tempdir().unwrap();
        let git = root.path().join("bare.git");
        git_directory_at(&git);
        for name in ["hooks", "config", "config.worktree", "info/attributes", "commondir", "modules", "worktrees"] {
            assert!(protects(&git, name), "{name}");
        }
        assert!(protects(&git.join("info"), "attributes"));
        assert!(names(&git.join("objects")).is_ok());
        for inside in ["hooks", "hooks/deep", "config"] {
            assert!(names(&git.join(inside)).unwrap_err().contains("--ro"), "{inside}");
        }
    }

    #[test]
    fn configured_hooks_are_protected() {
        let root = tempfile::tempdir().unwrap();
        let work = root.path().join("work");
        git_directory_at(&work.join(".git"));
        fs::create_dir_all(work.join("tools/hooks")).unwrap();
        fs::write(work.join(".git/config"), "[core]\n\tbare = false\n\thooksPath = ./tools/hooks # ours\n").unwrap();
        assert!(protects(&work, "tools/hooks"));
        assert!(protects(&work.join("tools"), "hooks"));
        assert!(names(&work.join("tools/hooks")).is_err());
        // A worktree has the settings of the repository.
        let other = root.path().join("other");
        fs::create_dir_all(work.join(".git/worktrees/other")).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(work.join(".git/worktrees/other/commondir"), "../..\n").unwrap();
        fs::write(other.join(".git"), format!("gitdir: {}\n", work.join(".git/worktrees/other").display())).unwrap();
        assert!(protects(&other, "tools/hooks"));
    }

    #[test]
    fn settings_are_read_as_git_reads_them() {
        for (settings, value) in [
            ("[core]\nhooksPath = a", Some("a")),
            ("[CORE]\n  HOOKSPATH=\"a b\"", Some("a b")),
            ("[core] hooksPath = a", Some("a")),
            ("[core]\nhooksPath = a\nhooksPath = b", Some("b")),
            ("[core]\nhooksPath = ~/a", None),
            ("[core]\nhooksPath", None),
            ("[core]\nhooksPath =", None),
            ("[core \"x\"]\nhooksPath = a", None),
            ("[core]\n[other]\nhooksPath = a", None),
            ("hooksPath = a", None),
            ("[core", None),
        ] {
            assert_eq!(configured_hooks(settings), value.map(PathBuf::from), "{settings}");
        }
    }

    #[test]
    fn a_pipe_in_the_place_of_settings_is_not_read() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join(".git")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, root.path().join(".git/config"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .unwrap();
        assert!(names(root.path()).is_ok());
    }

    #[test]
    fn what_is_missing_is_watched() {
        let root = tempfile::tempdir().unwrap();
        let grant = |protect| Grant { path: root.path().into(), target: None, access: agentd_core::Access::ReadWrite, protect };
        let watched = unprotected(&[grant(names(root.path()).unwrap())]);
        assert!(watched.contains(&root.path().join(".git")) && watched.contains(&root.path().join("CLAUDE.md")));
        assert!(!watched.contains(&root.path().join(".git/hooks")));
        fs::create_dir(root.path().join(".git")).unwrap();
        let watched = unprotected(&[grant(names(root.path()).unwrap())]);
        assert!(watched.contains(&root.path().join(".git/hooks")) && !watched.contains(&root.path().join(".git")));
        assert!(unprotected(&[grant(Vec::new())]).is_empty());
    }
}
