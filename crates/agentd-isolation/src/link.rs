//! The connection to one supervisor. It sends requests and receives events. Everything received from a supervisor is untrusted.

use crate::{
    exec::{self, transport::LossError},
    ready,
    send_queue::{PushError, SendQueue},
};
use agentd_core::{Control, ControlError, IsolationError, Limits, Usage};
use agentd_kernel::cgroup::{GroupUsage, Watch};
use agentd_log::LogFailure as _;
use agentd_supervisor::{
    channel::{Channel, ChannelError},
    protocol::{Event, ExecUsage, Request, SpawnStep},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    collections::HashMap,
    future::pending,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
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

/// How many events of one exec may be queued. An exec has at most two, a terminal and its end. A supervisor that overflows the
/// queue is compromised and loses its sandbox.
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
pub(crate) struct Link {
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
    made: Instant,
    /// True while the sandbox's root file system is frozen. Writing processes then block and cannot end. Only the agent in a
    /// virtual machine freezes it.
    pub(crate) frozen_flag: Arc<watch::Sender<bool>>,
    /// Usage of the execs that have ended.
    used: Mutex<ExecUsage>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// Starts the task that serves a supervisor after its hello. `socket` is a duplicate of the descriptor of `channel`.
    pub(crate) fn start(
        channel: AsyncFd<Channel>,
        socket: OwnedFd,
        pidfd: OwnedFd,
        Traits { namespaced, owner, watches, limits }: Traits,
    ) -> (Arc<Self>, JoinHandle<()>) {
        let link = Arc::new(Self {
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
            made: Instant::now(),
            frozen_flag: Arc::default(),
            used: Mutex::default(),
        });
        let reader = tokio::spawn(serve(channel, Arc::downgrade(&link)));
        (link, reader)
    }

    /// Waits until the root file system has been unfrozen for `max_wait` without interruption.
    pub(crate) fn unfrozen_for(&self, max_wait: Duration) -> impl Future<Output = ()> + use<> {
        let mut frozen_flag = self.frozen_flag.subscribe();
        async move {
            // Fails when the link, which owns the sender, is dropped.
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
                Err(IsolationError::Invalid { what: "command".to_owned(), reason: e.to_string() })
            }
            // A loss that was recorded earlier has the better cause.
            Err(other) => Err(self.lost().unwrap_or_else(|| IsolationError::SupervisorDied(other.to_string()))),
        }
    }

    fn dispatch(&self, event: Event, mut fds: Vec<OwnedFd>) -> Result<(), &'static str> {
        let (id, events) = match event {
            Event::Hello { .. } => return Err("the supervisor sent a second greeting"),
            Event::Terminal { id } => {
                (id, ExecEvent::Terminal(fds.pop().ok_or("the supervisor sent a terminal event without a file descriptor")?))
            }
            Event::Ended { id, status, usage, process_limit } => {
                lock(&self.used).add(usage);
                (id, ExecEvent::Ended { status, usage, process_limit })
            }
            Event::SpawnFailed { id, errno, step } => (id, ExecEvent::SpawnFailed(spawn_error(step, errno))),
            Event::Opened { id, errno } => (id, ExecEvent::Opened(fds.pop().filter(|_| errno == 0).ok_or(errno))),
        };
        match lock(&self.listeners).get(&id).map(|listener| listener.try_send(events)) {
            Some(Err(mpsc::error::TrySendError::Full(_))) => {
                Err("the supervisor sent more events of one exec than the protocol allows")
            }
            // An exec whose caller stopped waiting has no listener.
            _ => Ok(()),
        }
    }

    /// Records the loss of the sandbox, unless one is recorded already, and closes the receivers of all execs.
    pub(crate) fn lose(&self, loss: LossError, why: &str) {
        let mut lost = lock(&self.lost);
        lost.get_or_insert_with(|| (loss, why.to_owned()));
        // Each listener sees the end of its events and then calls [`Link::why_lost`].
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

    /// Returns true if the supervisor has exited. Asks the kernel (`pidfd_open(2)`: readable after the exit), because the task
    /// that serves the channel may not have run yet.
    fn has_exited(&self) -> bool {
        let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(poll(&mut ended, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1..))
    }

    /// Returns the resources that the sandbox has used so far.
    pub(crate) fn usage(&self) -> Usage {
        exec::usage(self.made.elapsed(), *lock(&self.used), GroupUsage::read(&self.watches))
    }

    /// Returns the pidfd of the sandbox's first process.
    pub(crate) fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Kills the whole sandbox at once, if it is still there.
    pub(crate) fn kill(&self) {
        // Fails if the process has already exited, which is the desired state.
        rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL).or_debug("kill supervisor", &self.pidfd);
    }
}

/// Returns the error for a failed step between fork and exec. The caller adds the name of the program.
fn spawn_error(step: SpawnStep, errno: i32) -> IsolationError {
    let (layer, call, remedy) = match step {
        SpawnStep::Exec => return IsolationError::Spawn { program: String::new(), errno },
        SpawnStep::Chdir => (
            Control::Exec,
            "chdir to the working directory",
            "name a directory that exists in the sandbox, for example in a grant",
        ),
        SpawnStep::Rlimits => {
            (Control::Rlimits, "set the limits of the command", "request no more than the caller's own hard limits (ulimit -H)")
        }
        SpawnStep::Fork => (Control::Exec, "start a process", "raise the process limit"),
    };
    ControlError::new(layer, call, Some(errno)).remedy(remedy).into()
}

/// Reads the supervisor's events and sends queued requests until the connection ends. Then kills the sandbox and records the
/// loss.
async fn serve(mut channel: AsyncFd<Channel>, link: Weak<Link>) {
    let why = loop {
        match channel.get_mut().buffered::<Event>() {
            Ok(Some((event, fds))) => match link.upgrade().map(|link| link.dispatch(event, fds)) {
                Some(Ok(())) => {}
                Some(Err(violation)) => break violation.to_owned(),
                None => return,
            },
            Ok(None) => {
                if let Err(error) = exchange(&mut channel, &link).await {
                    break error.to_string();
                }
            }
            Err(error) => break error.to_string(),
        }
    };
    if let Some(link) = link.upgrade() {
        tracing::debug!(why, "connection to the supervisor ended");
        // A supervisor that broke the protocol must not keep running commands.
        link.kill();
        link.lose(IsolationError::SupervisorDied, &why);
    }
}

/// Waits until bytes could be read, requests were queued, or the socket has room for queued requests.
async fn exchange(channel: &mut AsyncFd<Channel>, link: &Weak<Link>) -> Result<(), ChannelError> {
    let Some(link) = link.upgrade() else { return Err(ChannelError::Closed) };
    let full = {
        let mut send_queue = lock(&link.send_queue);
        send_queue.flush()?.then(|| send_queue.socket())
    };
    let room = async {
        match &full {
            // Registered only while requests are queued. Otherwise every request that the peer reads would wake this task.
            Some(socket) => ready::once(socket.as_fd(), Interest::WRITABLE).await,
            None => pending().await,
        }
    };
    tokio::select! {
        readable = channel.readable_mut() => {
            let mut guard = readable?;
            if !guard.get_inner_mut().fill()? {
                guard.clear_ready();
            }
            Ok(())
        }
        writable = room => writable.map_err(ChannelError::from),
        () = link.waiting.notified() => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_supervisor::{channel::send, protocol};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::{io::Write, os::unix::process::ExitStatusExt, process::Child};

    /// Starts a process that is no supervisor. Returns a link to it, the link's task, the peer's end of the channel, and the
    /// process.
    fn impostor() -> (Arc<Link>, JoinHandle<()>, OwnedFd, Child) {
        let child = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
        let socket = ours.try_clone().unwrap();
        let channel = ready::channel(Channel::new(ours, protocol::MAX_EVENT)).unwrap();
        let (link, reader) = Link::start(channel, socket, pidfd, Traits { namespaced: true, ..Traits::default() });
        (link, reader, theirs, child)
    }

    async fn loses_its_sandbox(send: impl FnOnce(&Link, OwnedFd)) {
        let (link, reader, theirs, mut child) = impostor();
        let (_, mut events) = link.listen();
        send(&link, theirs);
        reader.await.unwrap();
        while events.recv().await.is_some() {}
        assert!(!link.is_alive());
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert!(link.listen().1.recv().await.is_none());
    }

    fn ended(id: u32) -> Event {
        Event::Ended { id, status: 0, usage: ExecUsage::default(), process_limit: false }
    }

    #[tokio::test(start_paused = true)]
    async fn max_wait_pauses_while_files_are_frozen() {
        let (link, _reader, _theirs, mut child) = impostor();
        let (ten, began) = (Duration::from_secs(10), tokio::time::Instant::now());
        link.unfrozen_for(ten).await;
        assert_eq!(began.elapsed(), ten);
        let frozen_flag = link.frozen_flag.clone();
        tokio::spawn(async move {
            tokio::time::sleep(ten / 2).await;
            frozen_flag.send_replace(true);
            tokio::time::sleep(ten * 3).await;
            frozen_flag.send_replace(false);
        });
        link.unfrozen_for(ten).await;
        assert_eq!(began.elapsed(), ten + ten / 2 + ten * 3 + ten);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn supervisor_sending_malformed_frames_has_its_sandbox_killed() {
        let bytes: [&[u8]; 4] = [b"garbage garbage garbage", &[0xff; 64], &[3, 0, 0, 0, 0, 99, 99, 99], &[1, 0, 0, 0, 0]];
        for bytes in bytes {
            loses_its_sandbox(|_, peer| std::fs::File::from(peer).write_all(bytes).unwrap()).await;
        }
        loses_its_sandbox(|_, peer| {
            let hello = Event::Hello { version: protocol::VERSION, layers: Ok(Vec::new()), watches: Vec::new(), owner: None };
            send(peer.as_fd(), &hello, &[]).unwrap();
        })
        .await;
        loses_its_sandbox(|_, peer| send(peer.as_fd(), &Event::Terminal { id: 1 }, &[]).unwrap()).await;
    }

    #[tokio::test]
    async fn supervisor_flooding_an_exec_with_events_has_its_sandbox_killed() {
        loses_its_sandbox(|_, peer| {
            for _ in 0..=MAX_QUEUED_EVENTS {
                send(peer.as_fd(), &ended(1), &[]).unwrap();
            }
        })
        .await;
    }

    #[tokio::test]
    async fn usage_reported_by_supervisor_saturates() {
        let (link, reader, theirs, mut child) = impostor();
        let (id, mut events) = link.listen();
        let most = ExecUsage { user_us: u64::MAX, system_us: u64::MAX, max_rss_kib: u64::MAX };
        for id in [id + 1, id] {
            send(theirs.as_fd(), &Event::Ended { id, status: 0, usage: most, process_limit: false }, &[]).unwrap();
        }
        assert!(matches!(events.recv().await, Some(ExecEvent::Ended { .. })));
        assert_eq!(link.usage().peak_memory, u64::MAX);
        reader.abort();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn events_of_unknown_execs_are_ignored() {
        let (link, reader, theirs, mut child) = impostor();
        let (id, mut events) = link.listen();
        for other in 100..200 {
            send(theirs.as_fd(), &ended(other), &[]).unwrap();
        }
        send(theirs.as_fd(), &ended(id), &[]).unwrap();
        assert!(matches!(events.recv().await, Some(ExecEvent::Ended { status: 0, .. })));
        assert!(link.is_alive());
        reader.abort();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
