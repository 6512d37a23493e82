//! Commands of git, npm and cargo work in a sandbox, and the repositories that they create are reported.

use super::project::{Project, text};
use serde_json::Value;
use std::fs;

#[test]
fn common_git_commands_work_and_are_not_reported() {
    let project = Project::new();
    let script = "set -e; git status -s; echo two >file; git commit -qam two; git switch -qc other; echo x >new; git add new
        git commit -qm new; git switch -q main; git merge -q other; git rebase -q HEAD~1; git reset -q --hard HEAD; git tag t; \
        git gc -q";
    assert_eq!(project.reported(script), Vec::<String>::new());
    assert_eq!(project.git(&["status", "-s"]), "");
}

#[test]
fn new_repositories_in_subdirectories_work_and_are_reported() {
    let project = Project::new();
    let script = "set -e; git init -q sub; git clone -q . ../work/clone; mkdir n; echo '{}' >n/package.json";
    assert_eq!(project.reported(script), ["created clone/.git", "created sub/.git"]);
    assert_eq!(project.reported("cd sub && git status -s && touch x && git add x"), Vec::<String>::new());
}

#[test]
fn npm_init_in_subdirectory_is_not_reported() {
    let project = Project::new();
    assert_eq!(project.reported("mkdir n && cd n && npm init -y >/dev/null"), Vec::<String>::new());
    assert!(project.path("n/package.json").exists());
}

/// Tests that need the toolchain of root.
mod as_root {
    use super::*;

    #[test]
    fn cargo_new_in_subdirectory_works_and_only_its_git_directory_is_reported() {
        let project = Project::new();
        let real_home = std::env::var_os("HOME").unwrap();
        let script =
            "cargo new -q --vcs none sub/plain && cargo new -q --vcs git sub/repository && cargo init -q --lib --vcs none src";
        let output = project.command(&["--json"], &["sh", "-c", script]).env("HOME", real_home).output().unwrap();
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(project.changes(&said), ["created sub/repository/.git"]);
        for made in ["sub/plain/Cargo.toml", "sub/repository/src/main.rs", "src/src/lib.rs"] {
            assert!(project.path(made).exists(), "{made}: {said}");
        }
    }
}

#[test]
fn commit_in_submodule_and_worktree_works_and_their_settings_are_read_only() {
    let project = Project::new();
    project.git(&["clone", "-q", "--bare", ".", "../upstream.git"]);
    project.git(&["submodule", "--quiet", "add", "../upstream.git", "libs/sub"]);
    project.commit("submodule");
    project.git(&["worktree", "add", "-q", "tree"]);
    let script = "set -e; git config -l >/dev/null; cd libs/sub; echo x >x; git add x
        git -c user.name=t -c user.email=t@example.org commit -qm x; cd ../../tree; echo y >y; git add y; git commit -qm y";
    assert_eq!(project.reported(script), Vec::<String>::new());
    for name in [".git/modules/libs/sub/config", ".git/modules/libs/sub/hooks/x", ".git/worktrees/tree/commondir", "tree/.git"] {
        let output = project.run(&[], &format!("echo evil >>{name}"));
        assert!(!output.status.success() || text(&output.stderr).contains(name), "{name}: {output:?}");
    }
    // The git directories of a new worktree are reported, and the listed names in it.
    let reported = project.reported("git worktree add -q second");
    assert_eq!(reported, ["created .git/worktrees/second", "created second/.git", "created second/.gitmodules"]);
}

#[test]
fn tracked_protected_file_not_updated_by_git_is_reported() {
    let project = Project::new();
    fs::write(project.path("AGENTS.md"), "one\n").unwrap();
    project.commit("agents");
    project.git(&["switch", "-qc", "other"]);
    fs::write(project.path("AGENTS.md"), "another\n").unwrap();
    project.commit("other");
    project.git(&["switch", "-q", "main"]);
    assert_eq!(project.reported("git switch -q other"), ["not-updated AGENTS.md"]);
    assert_eq!(project.git(&["status", "-s"]), " M AGENTS.md\n");
    project.git(&["restore", "AGENTS.md"]);
    assert_eq!(fs::read_to_string(project.path("AGENTS.md")).unwrap(), "another\n");
    // A file changed by the user and committed by the command is not reported.
    fs::write(project.path("AGENTS.md"), "the user's\n").unwrap();
    assert_eq!(project.reported("git commit -qam mine"), Vec::<String>::new());
}

#[test]
fn repository_outside_workspace_is_named_with_option_that_grants_it() {
    let project = Project::new();
    fs::create_dir(project.path("sub")).unwrap();
    fs::write(project.path("sub/x"), "").unwrap();
    let root = project.path("").canonicalize().unwrap();
    let inside = |directory: &str, options: &[&str], script: &str| {
        let mut command = project.command(options, &["sh", "-c", script]);
        command.current_dir(project.path(directory)).output().unwrap()
    };
    let output = inside("sub", &[], "git status");
    assert!(text(&output.stderr).contains(&format!("--workspace {}", root.display())), "{output:?}");
    project.git(&["worktree", "add", "-q", "../linked"]);
    let git = root.join(".git").display().to_string();
    let output = inside("../linked", &[], "git status");
    assert!(text(&output.stderr).contains(&format!("--rw {git}")), "{output:?}");
    // With --rw the linked worktree works, and the repository's hooks and settings are read-only.
    let commit = "git config --global safe.directory '*'; echo x >x && git add x && git commit -qm x";
    let output = inside("../linked", &["--rw", &git], commit);
    assert!(output.status.success(), "{output:?}");
    for name in ["config", "hooks/x", "worktrees/linked/commondir"] {
        let output = inside("../linked", &["--rw", &git], &format!("echo evil >>{git}/{name}"));
        assert!(!output.status.success(), "{name}");
    }
}
