//! A user with sessions, and functions that execute cells in them.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// The time limit for a condition that must become true.
const TIMEOUT: Duration = Duration::from_secs(300);

/// A user with a workspace and a daemon.
pub struct User(TempDir);

impl User {
    pub fn new() -> Self {
        let user = Self(tempfile::tempdir().unwrap());
        fs::create_dir(user.path("work")).unwrap();
        user
    }

    /// Returns a user with these policies.
    pub fn with_policies(text: &str) -> Self {
        let user = Self::new();
        user.set_policies(text);
        user
    }

    pub fn set_policies(&self, text: &str) {
        let folder = self.path("data/policy/enforced");
        fs::create_dir_all(&folder).unwrap();
        for above in folder.ancestors().take_while(|above| above.starts_with(self.0.path())) {
            fs::set_permissions(above, fs::Permissions::from_mode(0o700)).unwrap();
        }
        fs::write(folder.join("test.cedar"), text).unwrap();
        fs::set_permissions(folder.join("test.cedar"), fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned()));
        command.args(args).current_dir(self.path("work")).env("AGENTD_DATA_DIR", self.path("data")).stdin(Stdio::null());
        command
    }

    pub fn good(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn cell_command(&self, language: &str, session: &str, source: &str, options: &[&str]) -> Command {
        let parameters = json!({ "language": language, "session": session, "source": source }).to_string();
        self.command(&[&["call", "code.run.v1", "--params", &parameters, "--json"], options].concat())
    }

    /// Executes a cell. Returns the exit code and the object.
    pub fn cell_with(&self, language: &str, session: &str, source: &str, options: &[&str]) -> (i32, Value) {
        let output = self.cell_command(language, session, source, options).output().unwrap();
        (output.status.code().unwrap(), object(&output))
    }

    /// Executes a cell that must end without an error. Returns its result.
    pub fn cell(&self, language: &str, session: &str, source: &str) -> Value {
        let (code, object) = self.cell_with(language, session, source, &[]);
        assert_eq!(code, 0, "{source}: {object:#}");
        object["result"].clone()
    }

    pub fn python(&self, session: &str, source: &str) -> Value {
        self.cell("python", session, source)
    }

    pub fn python_with(&self, session: &str, source: &str, options: &[&str]) -> (i32, Value) {
        self.cell_with("python", session, source, options)
    }

    /// Returns the daemon of this user, if one lives.
    pub fn daemon(&self) -> Option<Pid> {
        let pid = fs::read_to_string(self.path("data/sandboxes/keeper/lock")).ok()?.trim().parse().ok()?;
        let pid = Pid::from_raw(pid)?;
        let command = fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
        (command.contains("daemon\0serve") && command.contains(self.0.path().to_str()?)).then_some(pid)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon() {
            kill_process(daemon, Signal::TERM).unwrap();
            until("the daemon ends", || self.daemon().is_none());
        }
    }
}

pub fn object(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Kills a daemon and waits until it is dead.
pub fn kill(daemon: Pid) {
    let dying = pidfd_open(daemon, PidfdFlags::empty()).unwrap();
    kill_process(daemon, Signal::KILL).unwrap();
    let mut dead = [PollFd::new(&dying, PollFlags::IN)];
    until("the daemon is dead", || poll(&mut dead, Some(&Timespec::default())).unwrap() == 1);
}

pub fn until(what: &str, mut met: impl FnMut() -> bool) {
    let began = Instant::now();
    while !met() {
        assert!(began.elapsed() < TIMEOUT, "{what}: not within {TIMEOUT:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Returns whether a process on the host has this text in its command line.
pub fn runs(mark: &str) -> bool {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let lines = all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.into_iter().any(|line| String::from_utf8_lossy(&line).contains(mark))
}

/// Returns a number of seconds for `sleep` that no other test uses.
pub fn mark(number: u32) -> String {
    format!("{}", 700_000 + 100 * u64::from(number) + u64::from(std::process::id()) * 10_000)
}
