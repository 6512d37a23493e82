//! A run of the command line in a virtual machine that changes protected paths.

use serde_json::{Value, json};
use std::{fs, path::Path, process::Command};

/// Runs a command with a backend whose files are in `data`, and asserts that `--json` reports the protected paths that the
/// command changed, and nothing else.
pub fn assert_changes_are_reported(backend: &str, data: &Path, options: &[&str]) {
    let root = tempfile::tempdir().unwrap();
    let work = root.path().canonicalize().unwrap().join("work");
    fs::create_dir_all(work.join("sub")).unwrap();
    fs::write(work.join("CLAUDE.md"), "mine").unwrap();
    let script = "echo evil >.envrc; echo evil >CLAUDE.md; mkdir -p sub/.git/objects sub/.git/refs
        echo 'ref: refs/heads/x' >sub/.git/HEAD; echo done";
    let program = std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned());
    let mut run = Command::new(program);
    run.args(["run", "--backend", backend, "--json"]).args(options).args(["--", "sh", "-c", script]);
    let output = run.current_dir(&work).env("AGENTD_DATA_DIR", data).output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!((&said["backend"], said["stdout"]["text"].as_str()), (&json!(backend), Some("done\n")), "{said}");
    let one = |change: &Value| {
        let path = Path::new(change["path"].as_str().unwrap()).strip_prefix(&work).unwrap();
        format!("{} {}", change["change"].as_str().unwrap(), path.display())
    };
    let mut changes: Vec<_> = said["protected_changes"].as_array().unwrap().iter().map(one).collect();
    changes.sort();
    assert_eq!(
        (changes, &said["protected_incomplete"]),
        (vec!["created .envrc".to_owned(), "created sub/.git".to_owned()], &json!(false)),
        "{said}"
    );
    assert_eq!(fs::read_to_string(work.join("CLAUDE.md")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(work.join(".envrc")).unwrap(), "evil\n");
}
