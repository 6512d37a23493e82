//! The program under test, and a repository in which a test runs it.

use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;

/// Returns the program under test; `AGENTD_BIN` names a copy if this user cannot read cargo's build directory.
pub fn program() -> String {
    std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned())
}

/// A repository with one commit and, next to it, a home directory.
pub struct Project {
    pub root: TempDir,
}

impl Project {
    pub fn new() -> Self {
        let project = Self { root: tempfile::tempdir().unwrap() };
        fs::create_dir(project.root.path().join("home")).unwrap();
        fs::create_dir(project.path("")).unwrap();
        project.git(&["init", "-q", "-b", "main"]);
        project.git(&["config", "user.name", "t"]);
        project.git(&["config", "user.email", "t@example.org"]);
        fs::write(project.path("file"), "one\n").unwrap();
        project.commit("first");
        project
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("work").join(name)
    }

    pub fn git_in(&self, directory: &Path, args: &[&str]) -> Output {
        let mut git = Command::new("git");
        git.args(["-c", "protocol.file.allow=always", "-c", "safe.directory=*"]).args(args).current_dir(directory);
        git.env("HOME", self.root.path().join("home")).env("GIT_CONFIG_NOSYSTEM", "1").output().unwrap()
    }

    /// Runs git on the host and requires success.
    pub fn git(&self, args: &[&str]) -> String {
        let output = self.git_in(&self.path(""), args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        text(&output.stdout)
    }

    pub fn commit(&self, message: &str) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", message]);
    }

    pub fn command(&self, options: &[&str], command: &[&str]) -> Command {
        let cache = std::env::temp_dir().join(format!("agentd-test-cache-{}", rustix::process::geteuid().as_raw()));
        let mut run = Command::new(program());
        run.arg("run").args(options).arg("--").args(command).current_dir(self.path("")).stdin(Stdio::null());
        run.env("HOME", self.root.path().join("home")).env("XDG_CACHE_HOME", cache);
        run
    }

    pub fn run(&self, options: &[&str], script: &str) -> Output {
        let script = format!(
            "export GIT_CONFIG_COUNT=2 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*' \
            GIT_CONFIG_KEY_1=protocol.file.allow GIT_CONFIG_VALUE_1=always\n{script}"
        );
        self.command(options, &["sh", "-c", &script]).output().unwrap()
    }

    /// Runs a script that must succeed; returns the reported changes, each as "CHANGE PATH".
    pub fn reported(&self, script: &str) -> Vec<String> {
        self.changes(&serde_json::from_slice(&self.run(&["--json"], script).stdout).unwrap())
    }

    /// Returns the changes in the JSON object of a script that succeeded, each as "CHANGE PATH".
    pub fn changes(&self, said: &Value) -> Vec<String> {
        assert_eq!(said["exit_code"], 0, "{said}");
        let one = |change: &Value| {
            let path = Path::new(change["path"].as_str().unwrap());
            let name = path.strip_prefix(self.path("").canonicalize().unwrap()).unwrap();
            format!("{} {}", change["change"].as_str().unwrap(), name.display())
        };
        said["protected_changes"].as_array().unwrap().iter().map(one).collect()
    }
}

/// Returns output as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
