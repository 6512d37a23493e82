//! The end of a sandbox, in steps that never block: a slow end delays no other order.

use super::live::Live;
use crate::sweep;
use agentd_core::ControlError;
use agentd_kernel::cgroup::Freezer;
use rustix::process::{Signal, WaitOptions, pidfd_send_signal, waitpid};
use std::{
    collections::HashSet,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

/// Pause before the second attempt to remove a cgroup. The launcher polls, because the kernel does not report when a cgroup
/// becomes empty.
const FIRST_PAUSE: Duration = Duration::from_micros(50);

/// Pauses double up to this length. If a cgroup is still busy afterwards, its processes do not die, and the launcher stops
/// trying.
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// Longest pause between two checks for orphans of a sandbox without a PID namespace.
const MAX_PAUSE: Duration = Duration::from_millis(10);

/// The time limit for a supervisor without a PID namespace to end its process tree. When the limit has passed, the supervisor is
/// killed. A payload with the supervisor's uid can stop it again after each `SIGCONT`.
const TERM_TIMEOUT: Duration = Duration::from_secs(2);

/// A sandbox that is being destroyed.
pub(super) struct Ending {
    pub id: u32,
    /// The number of destroy orders that request a report.
    pub reports: u32,
    /// True once the first process was found dead.
    pub dead: bool,
    /// The sandbox. Its mount namespace descriptor is dropped with it, after the report: the mounts are unreachable by then, and
    /// tearing them down takes the kernel as long as all other steps together.
    live: Live,
    /// The time at which the first process is killed; `None` after it has been killed.
    kill_at: Option<Instant>,
    /// The next attempt; `None` until the first process has been reaped.
    retry: Option<Retry>,
}

/// Time of the next step.
#[derive(Clone, Copy)]
struct Retry {
    at: Instant,
    pause: Duration,
}

impl Retry {
    fn after(pause: Duration) -> Self {
        Self { at: Instant::now() + pause, pause }
    }
}

impl Ending {
    /// Signals the first process of a sandbox to end, which ends the other processes as well.
    pub fn begin(id: u32, live: Live) -> Self {
        if let Some(freezer) = &live.freezer {
            // On cgroup version 1, frozen processes do not die. If thawing fails, the later removal of the group also fails.
            freezer.set(false).ok();
        }
        // Without a PID namespace, the supervisor must end its process tree itself, and is continued in case it is stopped. The
        // launcher adopts and kills any processes that remain.
        let (signals, kill_at) = if live.namespaced {
            (&[Signal::KILL][..], None)
        } else {
            (&[Signal::TERM, Signal::CONT][..], Some(Instant::now() + TERM_TIMEOUT))
        };
        let ending = Self { id, reports: 0, dead: false, live, kill_at, retry: None };
        signals.iter().for_each(|signal| ending.signal(*signal));
        ending
    }

    /// Begins another attempt after a failed one, which had reaped the first process.
    pub fn again(self) -> Self {
        Self { retry: Some(Retry::after(FIRST_PAUSE)), ..self }
    }

    fn signal(&self, signal: Signal) {
        // A process that is already gone needs no signal.
        pidfd_send_signal(&self.live.pidfd, signal).ok();
    }

    /// Returns the process whose end is the next event to wait for; `None` once it has been reaped.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.retry.is_none().then(|| self.live.pidfd.as_fd())
    }

    /// Returns the time of the next step, if no descriptor announces that step.
    pub fn due(&self) -> Option<Instant> {
        self.retry.map_or(self.kill_at, |retry| Some(retry.at))
    }

    /// Returns true if [`Ending::step`] may make progress at `now`.
    pub fn can_go_on(&self, now: Instant) -> bool {
        self.due().is_some_and(|at| at <= now) || self.retry.is_none() && self.dead
    }

    /// Returns true if processes of the sandbox may outlive its first process.
    pub fn leaves_orphans(&self) -> bool {
        !self.live.namespaced
    }

    /// Returns the pid of the first process, until that process has been reaped.
    pub fn first_process(&self) -> Option<i32> {
        self.retry.is_none().then(|| self.live.pid.as_raw_nonzero().get())
    }

    /// Performs the steps that are possible now. Returns the result once the sandbox has ended. Children of the launcher that are
    /// not in `keep` are treated as orphans and killed.
    pub fn step(&mut self, keep: &HashSet<i32>) -> Option<Result<(), ControlError>> {
        let pause = match self.retry {
            Some(retry) => retry.pause,
            None => {
                if let Ok(None) = waitpid(Some(self.live.pid), WaitOptions::NOHANG) {
                    if self.kill_at.is_some_and(|at| at <= Instant::now()) {
                        self.kill_at = None;
                        self.signal(Signal::KILL);
                    }
                    return None;
                }
                FIRST_PAUSE
            }
        };
        if !self.live.namespaced && !sweep::try_kill_orphans(keep) {
            self.retry = Some(Retry::after((pause * 2).min(MAX_PAUSE)));
            return None;
        }
        match self.remove_groups() {
            Err(error) if error.errno == Some(libc::EBUSY) && pause < LAST_PAUSE => {
                self.retry = Some(Retry { pause: pause * 2, ..Retry::after(pause) });
                None
            }
            removed => Some(removed),
        }
    }

    /// Removes the cgroups. A failure to remove one does not prevent removing the other.
    fn remove_groups(&mut self) -> Result<(), ControlError> {
        let thawed = self.live.freezer.as_ref().map_or(Ok(()), Freezer::try_remove);
        if let Some(cgroup) = &mut self.live.cgroup {
            cgroup.kill();
            cgroup.try_remove()?;
        }
        thawed
    }
}
