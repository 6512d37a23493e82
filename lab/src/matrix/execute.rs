//! Runs the commands of a step: writes their output to the step's log, and adds up their processor time.

use crate::{
    error::{Calling, LabError, format_error},
    tool,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

/// Clock ticks per second in `/proc/PID/stat` (`USER_HZ`, the same on all architectures that agentd supports).
const TICKS: u64 = 100;

/// The log of a step.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    spent: Mutex<Duration>,
    deadline: Option<Instant>,
}

impl Log {
    /// Creates an empty log. The commands of the step are killed at `deadline`.
    pub fn new(path: PathBuf, deadline: Option<Instant>) -> Result<Self, LabError> {
        let file = File::options().create(true).append(true).open(&path).on("create", &path)?;
        file.set_len(0).on("truncate", &path)?;
        Ok(Self { path, file, spent: Mutex::default(), deadline })
    }

    /// Returns the text of the log.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.path).unwrap_or_default()).into_owned()
    }

    /// Returns the processor time of the commands that have ended.
    pub fn spent(&self) -> Duration {
        self.spent.lock().map(|spent| *spent).unwrap_or_default()
    }
}

/// Runs a command that must succeed. The kernel kills the command if this thread ends.
///
/// # Errors
/// [`LabError::NotEnded`] if the command could not be started or did not end before the deadline of `log`.
pub fn execute(command: &mut Command, log: &Log) -> Result<(), LabError> {
    if log.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
        return Err(LabError::NotEnded);
    }
    let called = || format!("{command:?}").chars().take(200).collect::<String>();
    let mut guarded = Command::new("setpriv");
    guarded.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    tool::copy_settings(command, &mut guarded);
    let copy = || log.file.try_clone().on("dup", &log.path);
    let mut child = guarded.stdin(Stdio::null()).stdout(copy()?).stderr(copy()?).spawn().calling(called)?;
    let ended = wait_until(&child, log.deadline)?;
    if !ended {
        child.kill().calling(|| "kill".to_owned())?;
        wait_until(&child, None)?;
    }
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    if let Ok(mut spent) = log.spent.lock() {
        *spent += processor_time(&stat);
    }
    let status = child.wait().calling(called)?;
    match (ended, status.success()) {
        (false, _) => Err(LabError::NotEnded),
        (true, true) => Ok(()),
        (true, false) => Err(LabError::Tool { command: called(), detail: status.to_string() }),
    }
}

/// Waits until a child has ended, without reaping it. Returns false if it still runs at `deadline`.
fn wait_until(child: &Child, deadline: Option<Instant>) -> Result<bool, LabError> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| format_error("a child's PID", child.id()))?;
    let process = pidfd_open(pid, PidfdFlags::empty()).calling(|| format!("pidfd_open {pid}"))?;
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], timeout.as_ref()) {
            Ok(0) if left.is_some_and(|left| left.is_zero()) => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error).calling(|| "poll".to_owned()),
        }
    }
}

/// Returns the processor time of a process and of its reaped descendants: fields 14 to 17 (`man 5 proc_pid_stat`).
fn processor_time(stat: &str) -> Duration {
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
    let ticks: u64 = fields.split_whitespace().skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_sum_of_own_and_children_for_any_program_name() {
        let stat = "7 (a) b (c) Z 1 7 7 0 -1 4194304 1 2 3 4 100 50 200 25 20 0 1 0 99";
        assert_eq!(processor_time(stat), Duration::from_millis(3750));
        assert_eq!(processor_time(""), Duration::ZERO);
    }

    #[test]
    fn output_of_command_is_logged_and_failure_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::new(folder.path().join("log"), None).unwrap();
        execute(Command::new("sh").args(["-c", "echo out; echo err >&2"]), &log).unwrap();
        assert_eq!(log.text(), "out\nerr\n");
        let error = execute(Command::new("sh").args(["-c", "exit 3"]), &log).unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
    }

    #[test]
    fn command_is_killed_at_the_deadline_and_none_starts_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::new(folder.path().join("log"), Some(Instant::now() + Duration::from_millis(300))).unwrap();
        let killed = execute(Command::new("sleep").arg("1000"), &log);
        assert!(matches!(killed, Err(LabError::NotEnded)), "{killed:?}");
        let unstarted = execute(Command::new("touch").arg(folder.path().join("started")), &log);
        assert!(matches!(unstarted, Err(LabError::NotEnded)), "{unstarted:?}");
        assert!(!folder.path().join("started").exists());
    }
}
