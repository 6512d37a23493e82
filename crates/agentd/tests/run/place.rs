//! The program under test, and the folders in which a test runs it.

use serde_json::Value;
use std::{
    fs,
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;

/// Returns the program under test; `AGENTD_BIN` names a copy if this user cannot read cargo's build directory.
pub fn program() -> String {
    std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned())
}

/// A workspace and, next to it, a home directory that holds a secret.
pub struct RunDir {
    pub root: TempDir,
}

impl RunDir {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("home/.ssh")).unwrap();
        fs::write(root.path().join("home/.ssh/id_rsa"), "secret").unwrap();
        fs::create_dir(root.path().join("work")).unwrap();
        Self { root }
    }

    pub fn work(&self) -> std::path::PathBuf {
        self.root.path().join("work")
    }

    pub fn command(&self, options: &[&str], command: &[&str]) -> Command {
        let mut run = Command::new(program());
        run.arg("run").args(options).arg("--").args(command);
        run.current_dir(self.work()).env("HOME", self.root.path().join("home"));
        run.env("SECRET_TOKEN", "x").stdin(Stdio::null());
        run
    }

    pub fn run(&self, options: &[&str], command: &[&str]) -> Output {
        self.command(options, command).output().unwrap()
    }

    pub fn sh(&self, script: &str) -> Output {
        self.run(&[], &["sh", "-c", script])
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// Returns whether this user may create control groups. If not, checks that an option that needs one fails with a remedy.
pub fn has_groups() -> bool {
    let place = RunDir::new();
    let output = place.run(&["--memory", "64M"], &["true"]);
    if !output.status.success() {
        assert!(!rustix::process::geteuid().is_root(), "{output:?}");
        assert!(
            text(&output.stderr).contains("cgroup: find a writable cgroup with the memory controller — run as root, or"),
            "{output:?}"
        );
        assert_eq!(output.status.code(), Some(125));
    }
    output.status.success()
}
