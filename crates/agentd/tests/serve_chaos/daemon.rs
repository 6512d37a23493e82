//! A daemon in a directory of its own, which is started again after it was killed.

use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

pub struct Place(TempDir);

impl Place {
    pub fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.path("work")).unwrap();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let program = std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned());
        let mut command = Command::new(program);
        command.args(args).current_dir(self.0.path()).env("AGENTD_DATA_DIR", self.path("data")).stdin(Stdio::null());
        command
    }

    /// Starts a daemon, and waits until it serves.
    pub fn start(&self) -> Daemon {
        let mut process = self.command(&["serve"]).stderr(Stdio::piped()).spawn().unwrap();
        let mut messages = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("serving on ") {
            assert!(messages.read_line(&mut line).unwrap() > 0, "the daemon ended: {line}");
        }
        // Later messages are printed if the test fails.
        std::thread::spawn(move || messages.lines().map_while(Result::ok).for_each(|line| eprintln!("{line}")));
        Daemon(process)
    }

    /// Returns how often each execution has left its mark.
    pub fn executions(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for line in fs::read_to_string(self.path("work/executions")).unwrap().lines() {
            *counts.entry(line.to_owned()).or_default() += 1;
        }
        counts
    }

    /// Verifies the audit log. Returns the number of outcomes of each intent in it.
    pub fn audited_outcomes(&self) -> BTreeMap<String, usize> {
        let verified = self.command(&["audit", "verify"]).output().unwrap();
        assert!(verified.status.success(), "{verified:?}");
        let tail = self.command(&["audit", "tail", "--json", "-n", "1000000"]).output().unwrap();
        assert!(tail.status.success(), "{tail:?}");
        let mut counts = BTreeMap::new();
        for line in String::from_utf8(tail.stdout).unwrap().lines() {
            let leaf: Value = serde_json::from_str(line).unwrap();
            if let Some(outcome) = leaf["leaf"]["event"].get("outcome") {
                *counts.entry(outcome["id"].as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
        counts
    }
}

/// A daemon that serves. It is killed when dropped.
pub struct Daemon(Child);

impl Daemon {
    /// Returns the daemon's launcher.
    pub fn launcher(&self) -> Option<u32> {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.0.id())).unwrap();
        children.split_ascii_whitespace().filter_map(|child| child.parse().ok()).find(|child: &u32| {
            fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|name| name.trim() == "agentd-launcher")
        })
    }

    /// Ends the daemon as a service manager does.
    pub fn stop(mut self) {
        assert!(Command::new("kill").arg(self.0.id().to_string()).status().unwrap().success());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
