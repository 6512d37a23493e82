//! Runs `git` in a directory, until a deadline.

use crate::{
    deadline::Deadline,
    error::{ErrorCode, ToolError},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, Signal, kill_process_group},
};
use std::{
    ffi::OsString,
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

/// The number of bytes of an output that are kept: the last ones.
const KEPT: usize = 4096;

/// The interval between two looks at a process that has closed its output.
const INTERVAL: Duration = Duration::from_millis(10);

/// The directory and the settings of all commands of a clone.
pub(super) struct GitProcesses<'a> {
    /// The working directory.
    pub(super) directory: &'a OwnedFd,
    /// The whole environment.
    pub(super) environment: &'a [(OsString, OsString)],
    /// The end of all commands.
    pub(super) deadline: Deadline,
}

/// The stream of a command that is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReadStream {
    Output,
    Errors,
}

impl GitProcesses<'_> {
    /// Runs a command that must succeed.
    ///
    /// # Errors
    /// [`ErrorCode::Git`] with the last messages of git, or [`ErrorCode::Limit`].
    pub(super) fn run<A: AsRef<str>>(&self, arguments: &[A]) -> Result<(), ToolError> {
        let (status, messages) = self.execute(arguments, ReadStream::Errors)?;
        if status.success() {
            return Ok(());
        }
        let messages: String = messages.trim_ascii().escape_ascii().to_string().replace("\\n", "; ").chars().take(1000).collect();
        let command = arguments.first().map_or("git", AsRef::as_ref);
        Err(ToolError::new(
            ErrorCode::Git,
            format!("git {command}: {messages} — check the URL, the branch and the granted hosts"),
        ))
    }

    /// Returns the output of a command without the line end; `None` if the command fails.
    ///
    /// # Errors
    /// [`ErrorCode::Limit`].
    pub(super) fn output(&self, arguments: &[&str]) -> Result<Option<String>, ToolError> {
        let (status, output) = self.execute(arguments, ReadStream::Output)?;
        let text = String::from_utf8(output).ok().map(|text| text.trim_end().to_owned());
        Ok(text.filter(|text| status.success() && !text.is_empty()))
    }

    fn execute<A: AsRef<str>>(&self, arguments: &[A], stream: ReadStream) -> Result<(ExitStatus, Vec<u8>), ToolError> {
        let piped = |wanted| if stream == wanted { Stdio::piped() } else { Stdio::null() };
        let mut command = Command::new("git");
        command
            .args(arguments.iter().map(AsRef::as_ref))
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        // The path names the open directory, whatever has its name by now.
        command.current_dir(format!("/proc/self/fd/{}", self.directory.as_raw_fd())).process_group(0);
        command.stdin(Stdio::null()).stdout(piped(ReadStream::Output)).stderr(piped(ReadStream::Errors));
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                ToolError::new(ErrorCode::NotFound, "git: the sandbox has no such program — install git, or use an image with it")
            }
            _ => failed(&error),
        })?;
        let ended = self.until_end(&mut child);
        if !matches!(ended, Ok(Some(_))) {
            end(&mut child);
        }
        match ended {
            Ok(Some(ended)) => Ok(ended),
            Ok(None) => Err(ToolError::new(ErrorCode::Limit, "git: the time is over — raise `time_ms`, or clone with a `depth`")),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Reads the output, and waits for the end; returns `None` at the deadline.
    fn until_end(&self, child: &mut Child) -> io::Result<Option<(ExitStatus, Vec<u8>)>> {
        let mut kept = Vec::new();
        match (child.stdout.take(), child.stderr.take()) {
            (Some(mut output), _) => self.read(&mut output, &mut kept)?,
            (None, Some(mut errors)) => self.read(&mut errors, &mut kept)?,
            (None, None) => {}
        }
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Some((status, kept)));
            }
            if self.deadline.is_over() {
                return Ok(None);
            }
            thread::sleep(INTERVAL.min(self.deadline.left()));
        }
    }

    /// Reads to the end of a pipe or to the deadline, and keeps the last bytes.
    fn read(&self, pipe: &mut (impl Read + AsFd), kept: &mut Vec<u8>) -> io::Result<()> {
        let mut buffer = [0; KEPT];
        while !self.deadline.is_over() {
            let left = self.deadline.left();
            let timeout =
                Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)], Some(&timeout)) {
                Ok(0) | Err(Errno::INTR) => continue,
                Ok(_) => {}
                Err(errno) => return Err(errno.into()),
            }
            match pipe.read(&mut buffer)? {
                0 => return Ok(()),
                length => kept.extend_from_slice(&buffer[..length]),
            }
            kept.drain(..kept.len().saturating_sub(KEPT));
        }
        Ok(())
    }
}

/// Kills a command and everything that it started.
fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // The processes may have ended already.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

fn failed(error: &io::Error) -> ToolError {
    ToolError::new(ErrorCode::System, format!("run git: {error}"))
}
