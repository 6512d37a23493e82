//! A directory for named sandboxes, and functions that run `agentd sandbox` in it. The daemon is in the namespaces of the tests.

use crate::place::program;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};
use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread::sleep,
    time::Duration,
};
use tempfile::TempDir;

pub struct NamedDir(TempDir);

impl NamedDir {
    pub fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.path("home")).unwrap();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("HOME", self.path("home"));
        command.env("TMPDIR", self.0.path()).env("AGENTD_DATA_DIR", self.path("data"));
        command.current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    /// Returns `agentd sandbox` with these arguments.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.program(&[&["sandbox"], arguments].concat())
    }

    /// Runs a command that must succeed, and returns its output.
    pub fn agentd(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.agentd(arguments)).unwrap()
    }

    /// Runs a command that must fail, and returns the error message.
    pub fn refused(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Runs `agentd net` with these arguments, and returns its output. The command must succeed.
    pub fn net(&self, arguments: &[&str]) -> Output {
        let output = self.program(&[&["net"], arguments].concat()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        output
    }

    pub fn bash(&self, name: &str, script: &str) -> String {
        self.agentd(&["exec", name, "--", "bash", "-c", script])
    }

    /// Stops the daemon.
    pub fn stop(&self) {
        let output = self.program(&["daemon", "stop"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Returns the daemon of these sandboxes, if it is running.
    pub fn daemon(&self) -> Option<Pid> {
        let pid: i32 = fs::read_to_string(self.path("data/sandboxes/keeper/lock")).ok()?.trim().parse().ok()?;
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        Pid::from_raw(pid).filter(|_| command.contains("daemon\0serve") && command.contains(self.0.path().to_str().unwrap()))
    }
}

impl Drop for NamedDir {
    fn drop(&mut self) {
        if self.daemon().is_some() {
            self.stop();
        }
    }
}

/// Kills a daemon and waits until it is dead. Until then, a client might still connect to it, and fail.
pub fn kill(daemon: Pid) {
    let dying = pidfd_open(daemon, PidfdFlags::empty()).unwrap();
    kill_process(daemon, Signal::KILL).unwrap();
    let mut dead = [PollFd::new(&dying, PollFlags::IN)];
    until("the daemon is dead", || poll(&mut dead, Some(&Timespec::default())).unwrap() == 1);
}

/// Waits for a condition. If the condition is never met, the time limit of the suite ends the wait. Until then, the condition is
/// printed.
pub fn until(what: &str, mut met: impl FnMut() -> bool) {
    let mut tries = 0_u32;
    while !met() {
        tries += 1;
        if tries.is_multiple_of(500) {
            eprintln!("still waiting: {what}");
        }
        sleep(Duration::from_millis(20));
    }
}

/// Returns true if a process has this text in its command line.
pub fn runs(mark: &str) -> bool {
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok()).any(|line| String::from_utf8_lossy(&line).contains(mark))
}
