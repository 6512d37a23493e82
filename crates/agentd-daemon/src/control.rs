//! Control of the daemon itself, independent of its version: queries it, ends it, and finds its log.

use crate::{
    client::{Client, unexpected},
    daemon_log,
    error::DaemonError,
    folder,
    protocol::{Daemon, Reply, Request},
};
use agentd_kernel::proc;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::FlockOperation,
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::{
    fs,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::PathBuf,
    time::{Duration, Instant},
};

/// The time limit for the daemon to end its sandboxes and to unmount their disks.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Interval between two checks of the lock while a daemon starts or ends.
const PAUSE: Duration = Duration::from_millis(10);

/// A daemon that was ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// The process id of the daemon.
    pub pid: i32,
}

impl Client {
    /// Returns information about the daemon; `None` if no daemon is running. Does not start one.
    ///
    /// # Errors
    /// [`DaemonError::Version`] if the daemon was started by another build of agentd.
    pub async fn daemon(&self) -> Result<Option<Daemon>, DaemonError> {
        match self.ask_running(Request::Daemon).await? {
            None => Ok(None),
            Some(Reply::Daemon(daemon)) => Ok(Some(daemon)),
            Some(other) => Err(unexpected(other)),
        }
    }

    /// Ends the daemon and waits until it has ended. Returns `None` if no daemon is running. Uses the lock and a signal instead
    /// of a request, so that a daemon of any version can be ended.
    ///
    /// # Errors
    /// [`DaemonError::NotStopped`] if the daemon does not end, or cannot be identified.
    pub async fn stop(&self) -> Result<Option<Stopped>, DaemonError> {
        let Some(folder) = self.folder()? else { return Ok(None) };
        let Some(lock) = folder::open_lock(&folder).map_err(|source| self.unreachable("open the daemon's lock file", source))?
        else {
            return Ok(None);
        };
        let held = || is_held(&lock).map_err(|errno| self.unreachable("test the daemon's lock file", errno.into()));
        let failed = |pid: Option<Pid>, reason: String, remedy| DaemonError::NotStopped {
            pid: pid.map(Pid::as_raw_pid),
            place: folder::path_of(&self.place),
            reason,
            remedy,
        };
        let began = Instant::now();
        let (pid, process) = loop {
            if !held()? {
                return Ok(None);
            }
            // In a `/proc` of another PID namespace, the daemon's pid may belong to another process, which would receive the
            // signal.
            if proc::directory_of(1).is_err() {
                let remedy = "mount /proc of this namespace (mount -t proc proc /proc), or run `agentd daemon stop` in the daemon's namespaces";
                return Err(failed(None, "/proc belongs to another PID namespace".to_owned(), remedy));
            }
            // A daemon that has just taken the lock has not written its process id yet.
            if let Some(found) = holder(&lock) {
                break found;
            }
            if began.elapsed() > TIMEOUT {
                let remedy = "find the process `agentd daemon serve` of this folder with `pgrep -af 'daemon serve'`, and end it \
                              with SIGTERM";
                return Err(failed(None, "no live process that holds the lock is recorded in the lock file".to_owned(), remedy));
            }
            tokio::time::sleep(PAUSE).await;
        };
        pidfd_send_signal(&process, Signal::TERM).map_err(|errno| {
            failed(Some(pid), errno.to_string(), "run `agentd daemon stop` as the user who started the daemon")
        })?;
        while !has_ended(&process) {
            if began.elapsed() > TIMEOUT {
                let reason = format!("still running after {} s", TIMEOUT.as_secs());
                return Err(failed(Some(pid), reason, "read `agentd daemon log`; if the process hangs, send SIGKILL"));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(Some(Stopped { pid: pid.as_raw_pid() }))
    }

    /// Returns the paths of the daemon's log: the newer file and the older one. Either may be missing.
    pub fn log_files(&self) -> [PathBuf; 2] {
        daemon_log::paths(&folder::path_of(&self.place))
    }
}

/// Returns true if a daemon holds the lock. If the lock is free, this function takes it for a moment, as a shared lock, so that
/// concurrent callers do not mistake each other for a daemon.
fn is_held(lock: &OwnedFd) -> Result<bool, Errno> {
    match rustix::fs::flock(lock, FlockOperation::NonBlockingLockShared) {
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(errno) => Err(errno),
        Ok(()) => rustix::fs::flock(lock, FlockOperation::Unlock).map(|()| false),
    }
}

/// Returns the process whose id is written in the lock file, if that process is alive and has the lock open. The id alone is not
/// enough: the daemon may have been killed, and another process may have the id now.
fn holder(lock: &OwnedFd) -> Option<(Pid, OwnedFd)> {
    let mut text = [0; 16];
    let length = rustix::io::pread(lock, &mut text, 0).ok()?;
    let pid = Pid::from_raw(str::from_utf8(&text[..length]).ok()?.trim().parse().ok()?)?;
    let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let own = rustix::fs::fstat(lock).ok()?;
    let open = fs::read_dir(proc::directory_of(pid.as_raw_pid()).ok()?.join("fd")).ok()?;
    let is_lock = |meta: fs::Metadata| (meta.dev(), meta.ino()) == (own.st_dev, own.st_ino);
    let has_it = open.flatten().any(|entry| fs::metadata(entry.path()).is_ok_and(is_lock));
    // While the process is alive its id is not reused, so the descriptors inspected above belong to this process.
    (has_it && !has_ended(&process)).then_some((pid, process))
}

/// Returns true if a process has ended (`pidfd_open(2)`).
fn has_ended(process: &OwnedFd) -> bool {
    poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};
    use std::process::{Command, Stdio};

    #[test]
    fn lock_holder_is_only_a_live_process_with_the_lock_file_open() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("lock");
        let open = || rustix::fs::open(&path, OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC, Mode::from(0o600)).unwrap();
        let lock = open();
        assert!(holder(&lock).is_none());
        // Two processes, one of which has the lock open.
        let mut with = Command::new("sleep").arg("1000").stdin(Stdio::from(open())).spawn().unwrap();
        let mut without = Command::new("sleep").arg("1000").spawn().unwrap();
        for (process, holds) in [(&mut with, true), (&mut without, false)] {
            fs::write(&path, format!("{}\n", process.id())).unwrap();
            assert_eq!(holder(&lock).map(|(pid, _)| pid), holds.then(|| Pid::from_child(process)));
            process.kill().unwrap();
            process.wait().unwrap();
            assert!(holder(&lock).is_none());
        }
    }

    #[test]
    fn is_held_is_true_only_while_another_descriptor_has_the_lock() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("lock");
        let open = || rustix::fs::open(&path, OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC, Mode::from(0o600)).unwrap();
        let (daemon, client) = (open(), open());
        assert!(!is_held(&client).unwrap());
        rustix::fs::flock(&daemon, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(is_held(&client).unwrap());
        drop(daemon);
        assert!(!is_held(&client).unwrap());
    }
}
