//! A user with a workspace and a data folder, both empty.

use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;

pub struct Place(pub TempDir);

impl Place {
    pub fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.path("work")).unwrap();
        place
    }

    /// A user with these policies, which nobody else may change.
    pub fn with_policies(text: &str) -> Self {
        let place = Self::new();
        let mut folder = place.path("");
        for name in ["data", "policy", "enforced"] {
            folder.push(name);
            fs::create_dir(&folder).unwrap();
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        }
        let file = folder.join("test.cedar");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Returns a command of agentd, without telemetry of the caller's environment.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned()));
        for (name, _) in std::env::vars_os() {
            if ["OTEL_", "TRACE", "AGENTD_LOG"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.args(args).current_dir(self.path("work")).env("AGENTD_DATA_DIR", self.path("data")).stdin(Stdio::null());
        // A proxy between agentd and a collector on this host.
        command.env("NO_PROXY", "127.0.0.1");
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Returns a call of a capability.
    pub fn call(&self, capability: &str, parameters: &Value, options: &[&str]) -> Command {
        self.command(&[&["call", capability, "--json", "--params", &parameters.to_string()], options].concat())
    }

    /// Returns a call that executes a script.
    pub fn shell(&self, script: &str, options: &[&str]) -> Command {
        self.call("shell.exec.v1", &json!({ "command": script }), options)
    }
}

/// Returns the object that a call has printed.
pub fn object(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}
