//! A directory for the named sandboxes of a test, and functions that run `agentd sandbox` in it.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};
use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// The time limit for a condition that must become true.
pub const TIMEOUT: Duration = Duration::from_secs(300);

/// Returns the program under test; `AGENTD_BIN` names a copy if this user cannot read cargo's build directory.
pub fn program() -> String {
    std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned())
}

pub struct SandboxDir(TempDir);

impl SandboxDir {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Returns the command `agentd sandbox` with these arguments.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.agentd_itself();
        command.arg("sandbox").args(args);
        command
    }

    /// Returns the program, with its data in this directory.
    pub fn agentd_itself(&self) -> Command {
        let mut command = Command::new(program());
        command.current_dir(self.0.path());
        command.env("AGENTD_DATA_DIR", self.path("data"));
        command
    }

    pub fn output(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command that must succeed, and returns its output.
    pub fn agentd(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        text(&output.stdout)
    }

    /// Runs a command that needs the freezer; returns whether it succeeded. It may fail for an ordinary user without a freezer.
    pub fn stops(&self, args: &[&str]) -> bool {
        let output = self.output(args);
        if !output.status.success() {
            assert!(!rustix::process::geteuid().is_root() && text(&output.stderr).contains("freezer"), "{args:?}: {output:?}");
        }
        output.status.success()
    }

    /// Runs a command that must fail, and returns the error message.
    pub fn refused(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert_eq!(output.status.code(), Some(125), "{args:?}: {output:?}");
        text(&output.stderr)
    }

    /// Asserts that fsck finds no damage. Objects that are not needed any more may still exist.
    pub fn is_whole(&self) {
        let state = self.agentd(&["fsck"]);
        assert_eq!(state.lines().last(), Some("clean"), "{state}");
    }

    pub fn sh(&self, name: &str, script: &str) -> String {
        self.agentd(&["exec", name, "--", "sh", "-c", script])
    }

    /// The daemon that has these sandboxes, if one lives.
    pub fn daemon(&self) -> Option<Pid> {
        let pid = fs::read_to_string(self.path("data/sandboxes/keeper/lock")).ok()?.trim().parse().ok()?;
        let pid = Pid::from_raw(pid)?;
        let command = fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
        (command.contains("daemon\0serve") && command.contains(self.0.path().to_str()?)).then_some(pid)
    }
}

impl Drop for SandboxDir {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon() {
            kill_process(daemon, Signal::TERM).unwrap();
            until("the daemon ends", || self.daemon().is_none());
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

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn until(what: &str, mut met: impl FnMut() -> bool) {
    let began = Instant::now();
    while !met() {
        assert!(began.elapsed() < TIMEOUT, "{what}: not within {TIMEOUT:?}");
        sleep(Duration::from_millis(20));
    }
}

/// Returns whether a process on the host has this text in its command line.
pub fn runs(mark: &str) -> bool {
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok()).any(|line| text(&line).contains(mark))
}
