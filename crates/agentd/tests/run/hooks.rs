//! Hooks and settings in the workspace.

use crate::place::{RunDir, text};
use std::fs;

#[test]
fn existing_hooks_and_settings_cannot_be_changed_and_new_ones_are_reported() {
    let place = RunDir::new();
    fs::create_dir_all(place.work().join(".git/hooks")).unwrap();
    fs::write(place.work().join(".git/config"), "[core]\n").unwrap();
    fs::write(place.work().join(".bashrc"), "# mine\n").unwrap();
    for script in [
        "echo evil > .git/hooks/pre-commit",
        "echo evil >> .git/config",
        "rm .git/config",
        "mv .git .tig",
        "rm -rf .git/hooks",
        "echo evil > .bashrc",
        "rm .bashrc",
        "mv .bashrc elsewhere",
    ] {
        let output = place.sh(script);
        assert!(!output.status.success(), "{script}: {output:?}");
    }
    assert_eq!(fs::read_to_string(place.work().join(".bashrc")).unwrap(), "# mine\n");
    // Missing protected files can be created; agentd reports them.
    let output = place.sh("echo evil > .envrc; echo evil > .git/commondir; echo evil > AGENTS.md");
    for made in [".envrc", ".git/commondir", "AGENTS.md"] {
        assert!(text(&output.stderr).lines().any(|line| line.contains("created: ") && line.contains(made)), "{output:?}");
    }
    // Files that exist when a command starts are read-only.
    for made in [".envrc", ".git/commondir", "AGENTS.md"] {
        assert!(!place.sh(&format!("echo evil > {made}")).status.success(), "{made}");
    }
}

#[test]
fn hooks_outside_default_directory_cannot_be_changed() {
    let place = RunDir::new();
    fs::create_dir_all(place.work().join(".git/hooks")).unwrap();
    for part in [".git/objects", ".git/refs", "tools/hooks"] {
        fs::create_dir_all(place.work().join(part)).unwrap();
    }
    fs::write(place.work().join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
    fs::write(place.work().join(".git/config"), "[core]\n\thooksPath = tools/hooks\n").unwrap();
    assert!(!place.sh("echo evil > tools/hooks/pre-commit").status.success());
    let git = place.work().join(".git").display().to_string();
    for path in ["hooks/x", "config"] {
        let script = format!("echo evil > {path}");
        assert!(!place.run(&["--workspace", &git, "--cwd", &git], &["sh", "-c", &script]).status.success(), "{path}");
    }
    assert_eq!(place.run(&["--rw", ".git/hooks"], &["true"]).status.code(), Some(125));

    let place = RunDir::new();
    fs::write(place.work().join(".git"), "gitdir: ../elsewhere\n").unwrap();
    for script in ["echo evil > .git", "rm .git", "mv .git x"] {
        assert!(!place.sh(script).status.success(), "{script}");
    }
}
