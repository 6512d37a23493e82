//! Git's settings, hooks and plans: what names programs of the host is read-only, or its change is reported.

use super::project::{Project, text};
use std::{fs, os::unix::fs::symlink};

#[test]
fn bare_repository_that_replaces_git_directory_is_reported() {
    let project = Project::new();
    let script = "set -e; rm .git/HEAD; mkdir objects refs; echo 'ref: refs/heads/x' >HEAD; echo '[core]' >config; mkdir -p a/b
        git init -q --bare a/b/c";
    assert_eq!(project.reported(script), ["created ", "removed .git", "created a/b/c"]);
}

#[test]
fn created_rebase_todo_list_is_reported() {
    let project = Project::new();
    let script = "mkdir .git/rebase-merge && echo 'exec evil' >.git/rebase-merge/git-rebase-todo";
    assert_eq!(project.reported(script), ["created .git/rebase-merge/git-rebase-todo"]);
}

#[test]
fn hooks_directory_set_in_any_config_form_is_read_only() {
    for (config, extra) in [
        ("[core]\nhooksPath = src/../tools/hooks\n", None),
        ("[core]\nhooksPath = to\\\nols/\"hooks\"\n", None),
        ("[include]\npath = ../shared\n", Some(("shared", "[core]\nhooksPath = tools/hooks\n"))),
        ("[extensions]\nworktreeConfig = true\n", Some((".git/config.worktree", "[core]\nhooksPath = tools/hooks\n"))),
    ] {
        let project = Project::new();
        fs::create_dir_all(project.path("tools/hooks")).unwrap();
        fs::create_dir_all(project.path("src")).unwrap();
        fs::write(project.path(".git/config"), config).unwrap();
        if let Some((name, content)) = extra {
            fs::write(project.path(name), content).unwrap();
            assert!(!project.run(&[], &format!("echo evil >>{name}")).status.success(), "{config}");
        }
        let output = project.run(&[], "echo evil >tools/hooks/pre-commit");
        assert!(!output.status.success(), "{config}: {output:?}");
    }
}

#[test]
fn target_of_linked_hook_is_read_only_and_link_is_reported_once() {
    let project = Project::new();
    fs::create_dir_all(project.path("scripts/hooks")).unwrap();
    fs::write(project.path("scripts/x"), "mine").unwrap();
    fs::create_dir_all(project.path(".git/hooks")).unwrap();
    symlink("../../scripts/x", project.path(".git/hooks/pre-commit")).unwrap();
    assert!(!project.run(&[], "echo evil >scripts/x").status.success());
    // The hooks directory itself is a link.
    fs::remove_dir_all(project.path(".git/hooks")).unwrap();
    symlink("../scripts/hooks", project.path(".git/hooks")).unwrap();
    let output = project.run(&[], "echo evil >scripts/hooks/pre-commit");
    assert!(!output.status.success());
    assert_eq!(text(&output.stderr).matches("symbolic link").count(), 1, "{output:?}");
    assert_eq!(project.reported("rm .git/hooks; mkdir .git/hooks"), ["replaced .git/hooks"]);
}

#[test]
fn run_with_git_linked_to_endless_file_ends() {
    let project = Project::new();
    fs::remove_dir_all(project.path(".git")).unwrap();
    symlink("/proc/kmsg", project.path(".git")).unwrap();
    let output = project.run(&["--timeout", "20s"], "true");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn git_settings_that_name_programs_cannot_be_written() {
    let project = Project::new();
    let before = fs::read(project.path(".git/config")).unwrap();
    let mut script = String::new();
    for (key, value) in [
        ("remote.x.url", "ext::sh -c evil"),
        ("remote.x.url", "-oProxyCommand=evil"),
        ("remote.x.vcs", "evil"),
        ("remote.x.uploadpack", "evil"),
        ("remote.x.receivepack", "evil"),
        ("include.path", "../evil"),
        ("includeIf.gitdir:/.path", "../evil"),
        ("core.hooksPath", "evil"),
        ("core.fsmonitor", "evil"),
        ("core.sshCommand", "evil"),
        ("core.worktree", "/"),
        ("alias.status", "!evil"),
        ("filter.x.smudge", "evil"),
        ("credential.helper", "!evil"),
        ("protocol.ext.allow", "always"),
    ] {
        script.push_str(&format!("git config {key} '{value}' && echo written {key}\n"));
        script.push_str(&format!("git config --worktree {key} '{value}' 2>/dev/null && echo written {key}\n"));
    }
    script.push_str(
        "echo evil >>.git/config; mv .git/config x; cp x .git/config; rm -f .git/config; mv .git g && echo moved; true",
    );
    let output = project.run(&[], &script);
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("", Some(0)), "{output:?}");
    assert_eq!(fs::read(project.path(".git/config")).unwrap(), before);
    // With --unprotect the setting is written and reported.
    let output = project.run(&["--unprotect", ".git/config"], "git config core.fsmonitor evil");
    assert!(text(&output.stderr).contains("replaced: ") && text(&output.stderr).contains(".git/config"), "{output:?}");
}
