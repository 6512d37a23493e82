//! Tests of the protected paths of a grant.

use super::*;
use std::{fs, os::unix::fs::symlink, path::PathBuf};

fn directory() -> (tempfile::TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().canonicalize().unwrap();
    (root, path)
}

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

/// Returns the names that are read-only in a sandbox with this grant.
fn completed(grant: &Path) -> Vec<PathBuf> {
    let mut plans = [GrantPlan { protect: names(grant).unwrap(), ..GrantPlan::new(grant, grant, Access::ReadWrite) }];
    complete(&mut plans);
    plans[0].protect.clone()
}

fn paths(names: &[&str]) -> Vec<PathBuf> {
    names.iter().map(PathBuf::from).collect()
}

/// Creates an empty file, and the directories above it.
fn create(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "").unwrap();
}

#[test]
fn every_path_of_the_list_is_read_only_where_it_exists() {
    let (_held, root) = directory();
    git_directory_at(&root.join(".git"));
    fs::remove_dir_all(root.join(".git/hooks")).unwrap();
    fs::remove_file(root.join(".git/config")).unwrap();
    let of_git = LIST.git.iter().filter(|name| !git::is_git_parent(Path::new(name))).map(|name| format!(".git/{name}"));
    let suffixes = LIST.suffixes.iter().map(|end| format!("mine{end}"));
    let listed: Vec<String> = of_git.chain(LIST.workspace.iter().map(ToString::to_string)).chain(suffixes).collect();
    assert_eq!(completed(&root), Vec::<PathBuf>::new());
    // A file at each path, one path at a time, so that no path is protected because of another one.
    for name in &listed {
        let path = root.join(name);
        create(&path);
        assert_eq!(completed(&root), [PathBuf::from(name)]);
        fs::remove_file(&path).unwrap();
    }
    assert!(!protects(&root, ".git"));
}

#[test]
fn every_nest_of_the_list_has_its_git_directories_protected() {
    let (_held, root) = directory();
    git_directory_at(&root.join(".git"));
    for parent in LIST.git.iter().filter(|name| git::is_git_parent(Path::new(name))) {
        git_directory_at(&root.join(".git").join(parent).join("x"));
        let expected = PathBuf::from(format!(".git/{parent}/x/hooks"));
        assert!(protects(&root, &format!(".git/{parent}")) && completed(&root).contains(&expected), "{parent}");
    }
}

#[test]
fn names_of_a_worktree_include_its_git_file() {
    let (_held, root) = directory();
    fs::write(root.join(".git"), "gitdir: ../elsewhere\n").unwrap();
    assert!(protects(&root, ".git"));
    assert!(!protects(&root, ".git/hooks"));
}

#[test]
fn grant_in_a_git_directory_has_its_hooks_protected_or_is_refused() {
    let (_held, root) = directory();
    let git = root.join("bare.git");
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
fn configured_hooks_of_the_repository_are_protected_in_every_worktree() {
    let (_held, root) = directory();
    let work = root.join("work");
    git_directory_at(&work.join(".git"));
    fs::create_dir_all(work.join("tools/hooks")).unwrap();
    fs::write(work.join(".git/config"), "[core]\n\tbare = false\n\thooksPath = ./tools/hooks # ours\n").unwrap();
    assert!(protects(&work, "tools/hooks"));
    assert!(protects(&work.join("tools"), "hooks"));
    assert!(names(&work.join("tools/hooks")).is_err());
    let other = root.join("other");
    fs::create_dir_all(work.join(".git/worktrees/other")).unwrap();
    fs::create_dir(&other).unwrap();
    fs::write(work.join(".git/worktrees/other/commondir"), "../..\n").unwrap();
    fs::write(other.join(".git"), format!("gitdir: {}\n", work.join(".git/worktrees/other").display())).unwrap();
    assert!(protects(&other, "tools/hooks"));
}

#[test]
fn fifo_and_link_in_place_of_settings_are_not_read() {
    let (_held, root) = directory();
    fs::create_dir(root.join(".git")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join(".git/config"), FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(names(&root).is_ok());
    fs::remove_dir_all(root.join(".git")).unwrap();
    symlink("/proc/kmsg", root.join(".git")).unwrap();
    assert!(names(&root).unwrap().contains(&PathBuf::from(".git")));
}

#[test]
fn git_directories_of_submodules_and_worktrees_have_their_names_protected_and_stay_writable() {
    let (_held, root) = directory();
    for git in [".git", ".git/modules/a/b", ".git/modules/a/b/modules/c"] {
        git_directory_at(&root.join(git));
    }
    fs::create_dir_all(root.join(".git/worktrees/w")).unwrap();
    for name in ["HEAD", "commondir", "gitdir", "index"] {
        fs::write(root.join(".git/worktrees/w").join(name), "../..\n").unwrap();
    }
    let expected = paths(&[
        ".git/config",
        ".git/hooks",
        ".git/modules/a/b/config",
        ".git/modules/a/b/hooks",
        ".git/modules/a/b/modules/c/config",
        ".git/modules/a/b/modules/c/hooks",
        ".git/worktrees/w/commondir",
        ".git/worktrees/w/gitdir",
    ]);
    assert_eq!(completed(&root), expected);
}

#[test]
fn target_of_a_protected_link_is_protected_if_it_lies_in_the_grant() {
    let (_held, root) = directory();
    git_directory_at(&root.join(".git"));
    fs::remove_dir_all(root.join(".git/hooks")).unwrap();
    fs::create_dir_all(root.join("scripts/hooks")).unwrap();
    for name in ["scripts/x", "scripts/hooks/y", "docs.md"] {
        fs::write(root.join(name), "").unwrap();
    }
    symlink("../scripts/hooks", root.join(".git/hooks")).unwrap();
    symlink("../x", root.join("scripts/hooks/pre-commit")).unwrap();
    symlink("docs.md", root.join("AGENTS.md")).unwrap();
    symlink("/etc/passwd", root.join("CLAUDE.md")).unwrap();
    symlink(".", root.join(".vscode")).unwrap();
    let protected = completed(&root);
    for name in ["scripts/hooks", "scripts/x", "docs.md", ".git/hooks"] {
        assert!(protected.contains(&PathBuf::from(name)), "{name}: {protected:?}");
    }
    assert!(protected.iter().all(|name| root.join(name) != root && !name.starts_with("/etc")), "{protected:?}");
}

#[test]
fn grant_without_protected_names_stays_unprotected() {
    let (_held, root) = directory();
    git_directory_at(&root.join(".git"));
    let mut plans = [GrantPlan::new(root.clone(), root, Access::ReadWrite)];
    complete(&mut plans);
    assert_eq!(plans[0].protect, Vec::<PathBuf>::new());
}

#[test]
fn nest_with_more_directories_than_search_limit_is_read_only() {
    let (_held, root) = directory();
    for git in [".git", ".git/modules/deep/er/sub"] {
        git_directory_at(&root.join(git));
    }
    assert!(!completed(&root).contains(&PathBuf::from(".git/modules")));
    for number in 0..=Limits::GIT_PARENT.directories {
        fs::create_dir(root.join(".git/modules").join(number.to_string())).unwrap();
    }
    assert!(completed(&root).contains(&PathBuf::from(".git/modules")));
}

#[test]
fn target_of_a_linked_hook_among_many_files_is_protected() {
    let (_held, root) = directory();
    git_directory_at(&root.join(".git"));
    for number in 0..MAX_HOOKS * 2 {
        fs::write(root.join(format!(".git/hooks/{number}")), "").unwrap();
    }
    for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        fs::write(root.join(name), "").unwrap();
        symlink(format!("../../{name}"), root.join(".git/hooks").join(name)).unwrap();
    }
    let protected = completed(&root);
    assert!(
        ["a", "b", "c", "d", "e", "f", "g", "h"].iter().all(|name| protected.contains(&PathBuf::from(name))),
        "{protected:?}"
    );
}
