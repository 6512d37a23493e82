//! Tests of released paths.

use super::*;
use std::{fs, os::unix::fs::symlink};

struct Project(tempfile::TempDir);

impl Project {
    fn new() -> Self {
        let project = Self(tempfile::tempdir().unwrap());
        for git in [".git", ".git/modules/libs/a", ".git/modules/libs/a/modules/b"] {
            for part in ["objects", "refs", "hooks", "info"] {
                fs::create_dir_all(project.path(git).join(part)).unwrap();
            }
            for file in ["HEAD", "config", "hooks/pre-commit"] {
                fs::write(project.path(git).join(file), "").unwrap();
            }
        }
        fs::create_dir_all(project.path(".vscode/hooks")).unwrap();
        fs::create_dir(project.path("docs")).unwrap();
        fs::write(project.path("docs/agents.md"), "").unwrap();
        symlink("docs/agents.md", project.path("AGENTS.md")).unwrap();
        symlink(".git", project.path("link")).unwrap();
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    fn grant(&self) -> Grant {
        let root = self.path("");
        let root: PathBuf = root.components().collect();
        Grant { protect: plan::names(&root).unwrap(), ..Grant::new(root, Access::ReadWrite) }
    }

    /// Releases a path. Asserts that nothing at or below it is read-only afterwards, and that a refusal changes nothing.
    fn release(&self, name: &str) -> Result<(), NotReleased> {
        let mut grants = [self.grant()];
        let released = release(&mut grants, &self.path(name));
        if released.is_err() {
            assert_eq!(grants, [self.grant()], "{name}");
            return released;
        }
        let read_only = plan::read_only(&grants.each_ref().map(GrantedTree::from_grant), &Interrupt::default()).paths;
        let meets = |path: &&PathBuf| path.starts_with(self.path(name)) || self.path(name).starts_with(path);
        assert_eq!(read_only.iter().find(meets), None, "{name}");
        released
    }
}

#[test]
fn released_path_is_writable_or_the_release_is_refused() {
    let project = Project::new();
    for name in [
        ".git/config",
        ".git/hooks",
        ".git/modules",
        ".git/modules/libs",
        ".git/modules/libs/a",
        ".git/modules/libs/a/config",
        ".git/modules/libs/a/hooks",
        ".git/modules/libs/a/modules",
        ".git/modules/libs/a/modules/b/config",
        ".envrc",
        ".vscode",
        "AGENTS.md",
        "docs/agents.md",
    ] {
        assert_eq!(project.release(name), Ok(()), "{name}");
    }
    let inside = |name: &str| Err(NotReleased::Inside(name.into()));
    for (name, expected) in [
        (".git/hooks/pre-commit", inside(".git/hooks")),
        (".git/modules/libs/a/hooks/pre-commit", inside(".git/modules/libs/a/hooks")),
        (".git/modules/libs/a/hooks/missing/deep", inside(".git/modules/libs/a/hooks")),
        (".envrc/x", inside(".envrc")),
        (".vscode/tasks.json", inside(".vscode")),
        ("link/config", Err(NotReleased::Linked(project.path(".git/config")))),
        ("../outside", Err(NotReleased::Outside)),
    ] {
        let path = if name == "../outside" { "/nonexistent/outside" } else { name };
        assert_eq!(project.release(path), expected, "{name}");
    }
    let Err(NotReleased::Contains(below)) = project.release(".git") else { panic!() };
    assert!(below.contains(&".git/config".into()) && below.len() <= MAX_NAMED, "{below:?}");
    for name in ["src", ".git/modules/libs/a/HEAD", ".git/modules/missing", ".git/confg"] {
        let Err(NotReleased::NotProtected(names)) = project.release(name) else { panic!("{name}") };
        assert!(names.contains(&".git/config".into()), "{name}");
    }
}

#[test]
fn path_that_is_protected_in_a_protected_directory_is_refused() {
    let project = Project::new();
    fs::write(project.path(".git/config"), "[core]\nhooksPath = .vscode/hooks\n").unwrap();
    assert_eq!(project.release(".vscode/hooks"), Err(NotReleased::Inside(".vscode".into())));
}

#[test]
fn path_released_twice_is_released() {
    let project = Project::new();
    let mut grants = [project.grant()];
    for _ in 0..2 {
        release(&mut grants, &project.path(".git/config")).unwrap();
    }
    assert_eq!(grants[0].unprotected, [PathBuf::from(".git/config")]);
}
