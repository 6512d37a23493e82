//! `--unprotect`: releases one protected path.

use super::project::{Project, text};
use std::{fs, os::unix::fs::symlink};

#[test]
fn submodule_commands_work_with_git_config_unprotected() {
    let project = Project::new();
    project.git(&["clone", "-q", "--bare", ".", "upstream.git"]);
    project.git(&["clone", "-q", "--bare", ".", "../outer.git"]);
    let add = "git submodule --quiet add ./upstream.git sub";
    // Git reports that the settings cannot be written, and still exits with 0.
    let output = project.run(&[], add);
    assert!(text(&output.stderr).contains("could not write config file .git/config"), "{output:?}");
    project.git(&["rm", "-q", "-f", "--cached", "sub", ".gitmodules"]);
    // The failed command left files that are protected in the next run.
    for left in ["sub", ".git/modules"] {
        fs::remove_dir_all(project.path(left)).unwrap();
    }
    fs::remove_file(project.path(".gitmodules")).unwrap();
    let output = project.run(&["--unprotect", ".git/config"], add);
    assert!(output.status.success(), "{output:?}");
    for name in [".gitmodules", ".git/config", ".git/modules/sub"] {
        assert!(text(&output.stderr).contains(name), "{name}: {output:?}");
    }
    project.commit("submodule");
    // A submodule that was initialised on the host is updated from the existing clone.
    project.git(&["submodule", "--quiet", "deinit", "-f", "sub"]);
    project.git(&["submodule", "--quiet", "init"]);
    let update = "git submodule --quiet update";
    let output = project.run(&["--unprotect", ".git/config", "--unprotect", ".git/modules"], update);
    assert!(output.status.success() && project.path("sub/file").exists(), "{output:?}");
}

#[test]
fn unprotect_affects_only_the_given_path() {
    let project = Project::new();
    fs::create_dir_all(project.path("tools")).unwrap();
    project.git(&["config", "core.hooksPath", "tools"]);
    let other = project.root.path().canonicalize().unwrap().join("other");
    fs::create_dir_all(other.join("tools")).unwrap();
    for place in [project.path("").canonicalize().unwrap(), other.clone()] {
        fs::write(place.join(".envrc"), "mine").unwrap();
    }
    let rw = ["--rw", other.to_str().unwrap()];
    let changed = |options: &[&str], path: &str| {
        let output = project.run(&[&rw, options].concat(), &format!("echo evil >>{path}"));
        output.status.success()
    };
    let there = other.join(".envrc").display().to_string();
    assert!(!changed(&[], ".envrc") && !changed(&[], &there) && !changed(&[], "tools/x"));
    assert!(!changed(&["--unprotect", ".envrc"], &there));
    assert!(!changed(&["--unprotect", &there], ".envrc"));
    assert!(changed(&["--unprotect", ".envrc"], ".envrc") && changed(&["--unprotect", &there], &there));
    // A directory that is protected only because core.hooksPath names it.
    assert!(changed(&["--unprotect", "tools"], "tools/x"));
    let outside = project
        .run(&["--workspace", "none", "--rw", project.path("").to_str().unwrap(), rw[0], rw[1], "--unprotect", ".envrc"], "true");
    assert!(text(&outside.stderr).contains("use an absolute path"), "{outside:?}");
}

#[test]
fn ineffective_unprotect_is_refused_and_error_names_effective_path() {
    let project = Project::new();
    project.git(&["clone", "-q", "--bare", ".", "../upstream.git"]);
    project.git(&["submodule", "--quiet", "add", "../upstream.git", "sub"]);
    project.commit("submodule");
    let hooks = project.path(".git/modules/sub/hooks");
    fs::create_dir_all(&hooks).unwrap();
    fs::write(hooks.join("pre-commit"), "mine").unwrap();
    fs::create_dir(project.path(".vscode")).unwrap();
    symlink(".git", project.path("link")).unwrap();
    let run = |path: &str, script: &str| project.run(&["--unprotect", path], script);
    for (path, named) in [
        (".git/modules/sub/hooks/pre-commit", ".git/modules/sub/hooks is read-only as a whole"),
        (".vscode/tasks.json", ".vscode is read-only as a whole"),
        ("link/config", "/work/.git/config — use that path"),
        ("sub/../.git/config", "/work/.git/config — use that path"),
        (".git", ".git/config"),
        (".git/confg", "Did you mean .git/config?"),
        ("agents.md", "Did you mean AGENTS.md?"),
        ("/etc/passwd", "no writable grant contains this path"),
    ] {
        let output = run(path, "true");
        assert_eq!(output.status.code(), Some(125), "{path}: {output:?}");
        assert!(text(&output.stderr).contains(named), "{path}: {output:?}");
    }
    for (path, written) in [
        (".git/modules/sub/hooks", ".git/modules/sub/hooks/pre-commit"),
        (".git/modules", ".git/modules/sub/config"),
        (".vscode", ".vscode/tasks.json"),
    ] {
        let output = run(path, &format!("echo x >>{written}"));
        assert!(output.status.success() && text(&output.stderr).contains(written), "{path}: {output:?}");
    }
}

#[test]
fn git_command_that_writes_config_fails_and_names_unprotect() {
    let project = Project::new();
    let remote = "git remote add origin https://example.org/x";
    let output = project.run(&[], remote);
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("--unprotect .git/config"), "{output:?}");
    let output = project.run(&["--unprotect", ".git/config"], remote);
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stderr).contains("replaced: ") && text(&output.stderr).contains(".git/config"), "{output:?}");
    assert!(!project.run(&["--unprotect", ".git/config"], "echo evil >.git/hooks/x").status.success());
    assert!(text(&project.run(&["--unprotect", "src"], "true").stderr).contains("not a protected path"));
}
