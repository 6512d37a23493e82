//! The connection to one supervisor. It sends requests and receives events ([`serve`]). Everything received from a supervisor is
//! untrusted.

mod serve;

use crate::{
    exec::{self, transport::LossError},
    send_queue::{PushError, SendQueue},
};
use agentd_core::{IsolationError, Limits, Usage};
use agentd_kernel::cgroup::{GroupUsage, Watch};
use agentd_log::LogFailure as _;
use agentd_supervisor::{
    channel::{Channel, ChannelError},
    protocol::{ExecUsage, Request},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    collections::HashMap,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::unix::AsyncFd,
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
};

/// An event of one exec, as sent by the supervisor.
#[derive(Debug)]
pub(crate) enum ExecEvent {
    Terminal(OwnedFd),
    Ended { status: i32, usage: ExecUsage, process_limit: bool },
    SpawnFailed(IsolationError),
    Opened(Result<OwnedFd, i32>),
}

/// The maximum number of queued events of one exec. An exec has at most two events, a terminal and its end. A supervisor that
/// overflows the queue is compromised and loses its sandbox.
const MAX_QUEUED_EVENTS: usize = 4;

/// Properties of a sandbox that are fixed at its creation.
#[derive(Default)]
pub(crate) struct Traits {
    pub namespaced: bool,
    pub owner: Option<(u32, u32)>,
    pub watches: Vec<Watch>,
    pub limits: Limits,
}

/// The connection to one supervisor, shared by the sandbox and its execs.
pub(crate) struct SupervisorConnection {
    send_queue: Mutex<SendQueue>,
    /// Wakes the task that serves the channel when requests are queued.
    waiting: Notify,
    pidfd: OwnedFd,
    /// True if killing the first process ends all others (`pid_namespaces(7)`).
    pub(crate) namespaced: bool,
    /// The host user and group that own the pipes of commands; `None` to leave the owner unchanged.
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) watches: Vec<Watch>,
    pub(crate) limits: Limits,
    listeners: Mutex<HashMap<u32, mpsc::Sender<ExecEvent>>>,
    next: AtomicU32,
    /// The error and the cause, once the sandbox is lost.
    lost: Mutex<Option<(LossError, String)>>,
    created: Instant,
    /// True while the sandbox's root file system is frozen. Writing processes then block and cannot end. Only the agent in a
    /// virtual machine freezes it.
    pub(crate) frozen_flag: Arc<watch::Sender<bool>>,
    /// Usage of the execs that have ended.
    used: Mutex<ExecUsage>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SupervisorConnection {
    /// Starts the task that serves a supervisor after its hello. `socket` is a duplicate of the descriptor of `channel`.
    pub(crate) fn start(
        channel: AsyncFd<Channel>,
        socket: OwnedFd,
        pidfd: OwnedFd,
        Traits { namespaced, owner, watches, limits }: Traits,
    ) -> (Arc<Self>, JoinHandle<()>) {
        let connection = Arc::new(Self {
            send_queue: Mutex::new(SendQueue::new(socket)),
            waiting: Notify::new(),
            pidfd,
            namespaced,
            owner,
            watches,
            limits,
            listeners: Mutex::new(HashMap::new()),
            next: AtomicU32::new(1),
            lost: Mutex::new(None),
            created: Instant::now(),
            frozen_flag: Arc::default(),
            used: Mutex::default(),
        });
        let reader = tokio::spawn(serve::serve(channel, Arc::downgrade(&connection)));
        (connection, reader)
    }

    /// Waits until the root file system has been unfrozen for `max_wait` without interruption.
    pub(crate) fn unfrozen_for(&self, max_wait: Duration) -> impl Future<Output = ()> + use<> {
        let mut frozen_flag = self.frozen_flag.subscribe();
        async move {
            // Fails when the connection, which owns the sender, is dropped.
            while frozen_flag.wait_for(|is_frozen| !is_frozen).await.is_ok() {
                tokio::select! {
                    () = tokio::time::sleep(max_wait) => return,
                    _ = frozen_flag.changed() => {}
                }
            }
        }
    }

    /// Allocates the id of a new exec and returns it with a receiver of its events. The receiver closes when the sandbox is lost.
    pub(crate) fn listen(&self) -> (u32, mpsc::Receiver<ExecEvent>) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel(MAX_QUEUED_EVENTS);
        let lost = lock(&self.lost);
        if lost.is_none() {
            lock(&self.listeners).insert(id, sender);
        }
        (id, receiver)
    }

    pub(crate) fn forget(&self, id: u32) {
        lock(&self.listeners).remove(&id);
    }

    /// Sends a request, or queues it until the supervisor reads. Never blocks.
    pub(crate) fn request(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), IsolationError> {
        match lock(&self.send_queue).push(request, fds) {
            Ok(false) => Ok(()),
            Ok(true) => {
                self.waiting.notify_one();
                Ok(())
            }
            Err(full @ PushError::Full) => Err(IsolationError::Busy(full.to_string())),
            Err(PushError::Channel(ChannelError::Encode(e))) => {
                let reason = format!("{e} — pass fewer or shorter arguments and environment variables");
                Err(IsolationError::Invalid { what: "command".to_owned(), reason })
            }
            // If the loss of the connection is already recorded, that record has the original cause.
            Err(other) => Err(self.lost().unwrap_or_else(|| IsolationError::SupervisorDied(other.to_string()))),
        }
    }

    /// Records the loss of the sandbox, unless one is recorded already, and closes the receivers of all execs.
    pub(crate) fn lose(&self, loss: LossError, why: &str) {
        let mut lost = lock(&self.lost);
        lost.get_or_insert_with(|| (loss, why.to_owned()));
        // Each listener sees the end of its events and then calls [`SupervisorConnection::why_lost`].
        lock(&self.listeners).clear();
    }

    /// Records that the caller destroyed the sandbox, and closes the receivers of all execs. This replaces an earlier reason,
    /// because the death of the supervisor may be noticed first and is only the consequence.
    pub(crate) fn destroyed(&self) {
        *lock(&self.lost) = Some((IsolationError::SandboxGone, "destroyed".to_owned()));
        lock(&self.listeners).clear();
    }

    /// Returns the error for the loss of the sandbox.
    pub(crate) fn why_lost(&self) -> IsolationError {
        self.lost().unwrap_or_else(|| IsolationError::SupervisorDied("the process has exited".to_owned()))
    }

    /// Returns the error for the loss of the sandbox, if it is lost.
    fn lost(&self) -> Option<IsolationError> {
        lock(&self.lost).as_ref().map(|(loss, why)| loss(why.clone()))
    }

    /// Returns true unless the sandbox is lost or the supervisor has exited.
    pub(crate) fn is_alive(&self) -> bool {
        lock(&self.lost).is_none() && !self.has_exited()
    }

    /// Returns true if the supervisor has exited, according to the kernel (`pidfd_open(2)`: readable after the exit). The task
    /// that serves the channel may not have run yet.
    fn has_exited(&self) -> bool {
        let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(poll(&mut ended, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1..))
    }

    /// Returns the resources that the sandbox has used so far.
    pub(crate) fn usage(&self) -> Usage {
        exec::usage(self.created.elapsed(), *lock(&self.used), GroupUsage::read(&self.watches))
    }

    /// Returns the pidfd of the sandbox's first process.
    pub(crate) fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Kills the whole sandbox immediately, if it is still there.
    pub(crate) fn kill(&self) {
        // Fails if the process has already exited, which is the desired state.
        rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL).or_debug("kill supervisor", &self.pidfd);
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
