//! Missing protected paths: in a protected directory they cannot be created, elsewhere their creation is reported.

use super::project::Project;
use serde_json::Value;
use std::fs;

/// Shell functions that each create the path `$1`, with the names of the ways.
const CREATIONS: &str = r#"
    write() { echo evil >"$1"; }; directory() { mkdir "$1"; }
    link() { echo evil >"${1%/*}/own" && ln "${1%/*}/own" "$1"; }; symlink() { ln -s nowhere "$1"; }
    rename() { cp source moved && mv -T moved "$1"; }; renamed_directory() { mkdir -p deep/er && mv -T deep "$1"; }
    fifo() { mkfifo "$1"; }; append() { echo evil >>"$1"; }; copy() { cp source "$1"; }
"#;

const WAYS: [&str; 9] = ["write", "directory", "link", "symlink", "rename", "renamed_directory", "fifo", "append", "copy"];

#[test]
fn missing_path_in_a_protected_directory_cannot_be_created_in_any_way() {
    let project = Project::new();
    project.git(&["clone", "-q", "--bare", ".", "../upstream.git"]);
    project.git(&["submodule", "--quiet", "add", "../upstream.git", "sub"]);
    fs::write(project.path("source"), "evil").unwrap();
    // An empty directory of the user's is enough.
    let directories = [".git/hooks", ".git/modules/sub/hooks", ".vscode", ".git/remotes"];
    for directory in directories {
        fs::create_dir_all(project.path(directory)).unwrap();
    }
    let names = |directory: &str| fs::read_dir(project.path(directory)).unwrap().count();
    let before = directories.map(names);
    let mut script = CREATIONS.to_owned();
    for (way, directory) in WAYS.iter().flat_map(|way| directories.iter().map(move |directory| (way, directory))) {
        script.push_str(&format!("{way} {directory}/new 2>/dev/null && echo {way} {directory}\n"));
    }
    for directory in directories {
        script.push_str(&format!("mv {directory} away 2>/dev/null && echo moved {directory}\nrm -rf {directory} 2>/dev/null\n"));
    }
    script.push_str("mv .git/modules/sub .git/modules/other 2>/dev/null && echo moved; true");
    for backend in ["linux-native", "container"] {
        let output = project.run(&["--json", "--backend", backend], &script);
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((said["stdout"]["text"].as_str(), &said["protected_changes"]), (Some(""), &serde_json::json!([])), "{said}");
        assert_eq!(directories.map(names), before, "{backend}");
    }
}

#[test]
fn missing_protected_path_created_in_any_way_is_reported_in_json() {
    let project = Project::new();
    fs::write(project.path("source"), "evil").unwrap();
    let paths = [".envrc", ".git/commondir", ".github/hooks", "sub/.vscode", "sub/a/.cargo/config.toml", "sub/a/AGENTS.md"];
    for way in WAYS {
        let script = format!(
            "{CREATIONS}\nset -e; mkdir -p .github sub/a/.cargo; for path in {}; do {way} ./$path; done",
            paths.join(" ")
        );
        assert_eq!(project.reported(&script), paths.map(|path| format!("created {path}")), "{way}");
        for path in paths.map(|path| project.path(path)) {
            fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)).unwrap();
        }
    }
}
