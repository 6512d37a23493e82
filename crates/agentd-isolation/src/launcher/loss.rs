//! The loss of a launcher: it has died, or it broke the protocol.
//!
//! Any thread may notice the loss. The thread that reads the launcher's reports handles it, because it may block: it waits for
//! the end of the launcher's process, which can take seconds, and removes control groups. Tasks wait for it asynchronously.

use super::{LAUNCHER, Launcher};
use agentd_kernel::cgroup::Hierarchy;
use agentd_log::LogFailure as _;
use agentd_supervisor::channel::ChannelError;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::Shutdown,
    process::{Signal, pidfd_send_signal},
};
use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, OnceLock, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// The time in which a launcher whose socket was closed ends its sandboxes and exits. When the time has passed, the launcher is
/// killed.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// The progress of handling a loss.
#[derive(Default)]
pub(super) struct Loss {
    /// The cause, set by the first thread that notices the loss.
    cause: OnceLock<String>,
    /// True once the launcher has ended and its control groups are removed.
    handled: watch::Sender<bool>,
}

impl Loss {
    /// Waits until the loss has been handled. Returns immediately if the launcher is not lost.
    pub(super) async fn handled(&self) {
        if self.cause.get().is_some() {
            // Waiting fails only without a sender, which is in `self`.
            self.handled.subscribe().wait_for(|handled| *handled).await.or_debug("wait for the end of", "lost launcher");
        }
    }
}

impl Launcher {
    /// Marks the launcher as lost: the next sandbox starts a new launcher. Does not wait. Returns the first cause, and only the
    /// first call logs it.
    pub(super) fn lose(&self, error: &ChannelError) -> &str {
        self.loss.cause.get_or_init(|| {
            if let Some(slot) = LAUNCHER.get() {
                let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
                if slot.as_ref().is_some_and(|current| std::ptr::eq(Arc::as_ptr(current), self)) {
                    *slot = None;
                }
            }
            tracing::warn!(%error, "launcher lost: its sandboxes have ended, and the next sandbox starts a new launcher");
            let socket = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
            // A launcher that broke the protocol still runs. It ends its sandboxes and exits when its socket closes. The thread
            // that reads its reports then handles the loss.
            rustix::net::shutdown(&*socket, Shutdown::Both).or_debug("close the launcher's socket", &*socket);
            error.to_string()
        })
    }

    /// Waits until the lost launcher has ended, removes the control groups that it left, and fails all pending orders. Blocks.
    pub(super) fn handle_loss(&self) {
        // A launcher that is not dead yet, although its socket is closed, still owns its control groups: no sweep removes them.
        if !await_end(&self.process) {
            tracing::warn!("killed launcher has not ended: its control groups stay until a later launcher removes them");
        }
        // A dead launcher can no longer remove its control groups. They are removed before the loss is reported.
        Hierarchy::detect().sweep();
        self.pending.clear();
        self.loss.handled.send_replace(true);
    }
}

/// Waits until the process has ended, and kills it after [`END_TIMEOUT`]. Returns false if the process has not ended even after
/// that.
fn await_end(process: &OwnedFd) -> bool {
    if ends_within(process, END_TIMEOUT) {
        return true;
    }
    pidfd_send_signal(process, Signal::KILL).or_warn("kill a launcher that does not end", process);
    ends_within(process, END_TIMEOUT)
}

/// Waits at most `limit` for the end of a process. A pidfd is readable once its process is a zombie.
fn ends_within(process: impl AsFd, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).unwrap_or_default();
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            ended => return ended.is_ok_and(|ready| ready > 0),
        }
    }
}

#[cfg(test)]
#[path = "loss_tests.rs"]
mod tests;
