//! Where a test's sandboxes are, and how they are asked for something.

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

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The program under test; another copy of it where this user cannot reach cargo's.
pub fn program() -> String {
    std::env::var("AGENTD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agentd").to_owned())
}

pub struct Place(TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `agentd sandbox` with these arguments.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.agentd_itself();
        command.arg("sandbox").args(args);
        command
    }

    /// The program, with what it keeps in this place.
    pub fn agentd_itself(&self) -> Command {
        let cache = std::env::temp_dir().join(format!("agentd-test-cache-{}", rustix::process::geteuid().as_raw()));
        let mut command = Command::new(program());
        command.current_dir(self.0.path());
        command.env("XDG_CACHE_HOME", cache).env("AGENTD_DATA_DIR", self.path("data"));
        command
    }

    pub fn output(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().unwrap()
    }

    /// What a command that succeeds prints.
    pub fn agentd(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        text(&output.stdout)
    }

    /// Whether a command that stops processes could. Where there is no freezer for an ordinary user, it is refused, and that is said.
    pub fn stops(&self, args: &[&str]) -> bool {
        let output = self.output(args);
        if !output.status.success() {
            assert!(!rustix::process::geteuid().is_root() && text(&output.stderr).contains("freezer"), "{args:?}: {output:?}");
        }
        output.status.success()
    }

    /// What a command that is refused says.
    pub fn refused(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert_eq!(output.status.code(), Some(125), "{args:?}: {output:?}");
        text(&output.stderr)
    }

    /// Nothing of what is kept is damaged; what is no longer needed may not have gone yet.
    pub fn is_whole(&self) {
        let state = self.agentd(&["fsck"]);
        assert_eq!(state.lines().last(), Some("clean"), "{state}");
    }

    pub fn sh(&self, name: &str, script: &str) -> String {
        self.agentd(&["exec", name, "--", "sh", "-c", script])
    }

    /// The keeper that has these sandboxes, if one lives.
    pub fn keeper(&self) -> Option<Pid> {
        let pid = fs::read_to_string(self.path("data/sandboxes/keeper/lock")).ok()?.trim().parse().ok()?;
        let pid = Pid::from_raw(pid)?;
        let command = fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
        (command.contains("keeper") && command.contains(self.0.path().to_str()?)).then_some(pid)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper() {
            kill_process(keeper, Signal::TERM).unwrap();
            until("the keeper ends", || self.keeper().is_none());
        }
    }
}

/// Kills a keeper and waits until it is dead: before, who asks it may still reach it, and is told that it is gone.
pub fn kill(keeper: Pid) {
    let dying = pidfd_open(keeper, PidfdFlags::empty()).unwrap();
    kill_process(keeper, Signal::KILL).unwrap();
    let mut dead = [PollFd::new(&dying, PollFlags::IN)];
    until("the keeper is dead", || poll(&mut dead, Some(&Timespec::default())).unwrap() == 1);
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn until(what: &str, mut met: impl FnMut() -> bool) {
    let began = Instant::now();
    while !met() {
        assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(20));
    }
}

/// Whether a process of the host's has this in its command line.
pub fn runs(mark: &str) -> bool {
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok()).any(|line| text(&line).contains(mark))
}
