//! A running sandbox, and its freezer.

use agentd_core::{Control, ControlError};
use agentd_kernel::{
    cgroup::{Cgroup, Freezer},
    idmap::IdLease,
};
use rustix::process::Pid;
use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

/// The time limit for freezing and thawing. A process that cannot be frozen in this time waits for a device or a file server.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Longest pause between two checks of a cgroup that is being frozen.
const MAX_PAUSE: Duration = Duration::from_millis(10);

/// A running sandbox.
pub(super) struct Live {
    pub pid: Pid,
    pub pidfd: OwnedFd,
    pub cgroup: Option<Cgroup>,
    pub namespaced: bool,
    /// The freezer, created by the first freeze order.
    pub freezer: Option<Freezer>,
    /// A descriptor of the mount namespace, if its mounts may be torn down after the sandbox has ended; otherwise `None`. See
    /// `docs/decisions/0004-tear-down-private-mounts-asynchronously.md`.
    pub _mounts: Option<OwnedFd>,
    /// Range of host ids; dropping the sandbox releases it.
    pub _lease: Option<IdLease>,
}

/// A freeze or thaw order in progress, which the kernel carries out asynchronously.
pub(super) struct Freezing {
    frozen: bool,
    until: Instant,
    /// Time of the next check.
    pub at: Instant,
    pause: Duration,
}

impl Freezing {
    /// Creates an order whose first attempt is due immediately.
    pub fn begin(frozen: bool) -> Self {
        let now = Instant::now();
        Self { frozen, until: now + TIMEOUT, at: now, pause: Duration::from_micros(50) }
    }

    /// Performs the next attempt. Returns the result once the order has ended. On failure, the sandbox is thawed.
    pub fn step(&mut self, freezer: &Freezer) -> Option<Result<(), ControlError>> {
        let ended = match freezer.set(self.frozen) {
            Ok(true) => return Some(Ok(())),
            Ok(false) if Instant::now() < self.until => None,
            Ok(false) => {
                let wanted = if self.frozen { "freeze" } else { "thaw" };
                Some(ControlError::new(Control::Cgroup, format!("wait for all processes to {wanted}"), Some(libc::ETIMEDOUT)))
            }
            Err(error) => Some(error),
        };
        if let Some(error) = ended {
            // Only the first error is reported.
            freezer.set(false).ok();
            return Some(Err(error));
        }
        self.at = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        None
    }
}
