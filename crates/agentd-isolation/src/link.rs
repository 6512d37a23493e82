//! The connection to one supervisor: requests out, news in. What comes from a supervisor is untrusted.

use crate::{exec, outbox::Outbox, ready};
use agentd_core::{IsolationError, Layer, LayerError, Limits, Usage};
use agentd_kernel::cgroup::{GroupUsage, Watch, WatchKind};
use agentd_supervisor::{
    channel::{Channel, ChannelError},
    protocol::{Event, ExecUsage, Request, SpawnStep},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
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

/// What a supervisor says of one exec.
#[derive(Debug)]
pub(crate) enum News {
    Terminal(OwnedFd),
    Ended { status: i32, usage: ExecUsage, process_limit: bool },
    SpawnFailed(IsolationError),
    Opened(Result<OwnedFd, i32>),
}

/// How much news of one exec may wait to be heard: a terminal and its end. A supervisor that says more is not ours any more.
const NEWS: usize = 4;

/// What is known of a sandbox from its making.
#[derive(Default)]
pub(crate) struct Traits {
    pub namespaced: bool,
    pub owner: Option<(u32, u32)>,
    pub watches: Vec<Watch>,
    pub limits: Limits,
}

/// The connection to one supervisor, shared by the sandbox and its execs.
pub(crate) struct Link {
    outbox: Mutex<Outbox>,
    /// Tells the reading task that something waits to be sent.
    waiting: Notify,
    pidfd: OwnedFd,
    /// Whether killing its first process ends all others (`pid_namespaces(7)`).
    pub(crate) namespaced: bool,
    /// Host user and group that commands' pipes must belong to.
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) watches: Vec<Watch>,
    pub(crate) limits: Limits,
    pub(crate) counts_processes: bool,
    listeners: Mutex<HashMap<u32, mpsc::Sender<News>>>,
    next: AtomicU32,
    lost: Mutex<Option<String>>,
    made: Instant,
    /// Whether the files of its root rest: what writes to them waits, and does not end. Only an agent in a virtual machine has them rest.
    pub(crate) at_rest: Arc<watch::Sender<bool>>,
    /// By execs that have ended.
    used: Mutex<ExecUsage>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// Starts serving a supervisor that has greeted over `channel`, whose descriptor `socket` is another of.
    pub(crate) fn start(
        channel: AsyncFd<Channel>,
        socket: OwnedFd,
        pidfd: OwnedFd,
        Traits { namespaced, owner, watches, limits }: Traits,
    ) -> (Arc<Self>, JoinHandle<()>) {
        let link = Arc::new(Self {
            outbox: Mutex::new(Outbox::new(socket)),
            waiting: Notify::new(),
            pidfd,
            namespaced,
            owner,
            counts_processes: watches.iter().any(|w| matches!(w.kind, WatchKind::PidsEvents | WatchKind::SilentPidsEvents)),
            watches,
            limits,
            listeners: Mutex::new(HashMap::new()),
            next: AtomicU32::new(1),
            lost: Mutex::new(None),
            made: Instant::now(),
            at_rest: Arc::default(),
            used: Mutex::default(),
        });
        let reader = tokio::spawn(serve(channel, Arc::downgrade(&link)));
        (link, reader)
    }

    /// Waits for so long in which its files do not rest, without a break.
    pub(crate) fn awake_for(&self, patience: Duration) -> impl Future<Output = ()> + use<> {
        let mut at_rest = self.at_rest.subscribe();
        async move {
            // What tells of it is gone with the link.
            while at_rest.wait_for(|at_rest| !at_rest).await.is_ok() {
                tokio::select! {
                    () = tokio::time::sleep(patience) => return,
                    _ = at_rest.changed() => {}
                }
            }
        }
    }

    /// A new exec's number and its news, which end when the sandbox is lost.
    pub(crate) fn listen(&self) -> (u32, mpsc::Receiver<News>) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel(NEWS);
        let lost = lock(&self.lost);
        if lost.is_none() {
            lock(&self.listeners).insert(id, sender);
        }
        (id, receiver)
    }

    pub(crate) fn forget(&self, id: u32) {
        lock(&self.listeners).remove(&id);
    }

    /// Sends a request, now or as soon as the supervisor reads. It never waits.
    pub(crate) fn request(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), IsolationError> {
        match lock(&self.outbox).push(request, fds) {
            Ok(false) => Ok(()),
            Ok(true) => {
                self.waiting.notify_one();
                Ok(())
            }
            Err(ChannelError::Frame(e)) => Err(IsolationError::Invalid { what: "command".to_owned(), reason: e.to_string() }),
            Err(other) => Err(IsolationError::Lost(format!("supervisor: {other}"))),
        }
    }

    fn dispatch(&self, event: Event, mut fds: Vec<OwnedFd>) -> Result<(), &'static str> {
        let (id, news) = match event {
            Event::Hello { .. } => return Err("a second greeting"),
            Event::Terminal { id } => (id, News::Terminal(fds.pop().ok_or("a terminal without a descriptor")?)),
            Event::Ended { id, status, usage, process_limit } => {
                lock(&self.used).add(usage);
                (id, News::Ended { status, usage, process_limit })
            }
            Event::SpawnFailed { id, errno, step } => (id, News::SpawnFailed(spawn_error(step, errno))),
            Event::Opened { id, errno } => (id, News::Opened(fds.pop().filter(|_| errno == 0).ok_or(errno))),
        };
        match lock(&self.listeners).get(&id).map(|listener| listener.try_send(news)) {
            Some(Err(mpsc::error::TrySendError::Full(_))) => Err("more news of one exec than there can be"),
            // An exec that nobody waits for has no listener.
            _ => Ok(()),
        }
    }

    /// Tells everybody who listens that there is no more news, and why.
    pub(crate) fn lose(&self, why: &str) {
        let mut lost = lock(&self.lost);
        lost.get_or_insert_with(|| why.to_owned());
        // Whoever listens hears of it by the end of the news, and asks [`Link::why_lost`].
        lock(&self.listeners).clear();
    }

    /// Why there is no more news.
    pub(crate) fn why_lost(&self) -> IsolationError {
        IsolationError::Lost(lock(&self.lost).clone().unwrap_or_else(|| "supervisor".to_owned()))
    }

    /// Whether there may be more news: nothing has been heard of its end, and it has not ended unheard.
    pub(crate) fn is_alive(&self) -> bool {
        lock(&self.lost).is_none() && !self.has_exited()
    }

    /// Whether the supervisor is dead, asked of the kernel (`pidfd_open(2)`: readable when it has ended). The task that would hear of
    /// it may not have run yet.
    fn has_exited(&self) -> bool {
        let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(poll(&mut ended, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1..))
    }

    /// What the sandbox used so far.
    pub(crate) fn usage(&self) -> Usage {
        exec::usage(self.made.elapsed(), *lock(&self.used), GroupUsage::read(&self.watches))
    }

    /// Its first process.
    pub(crate) fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Kills the whole sandbox at once.
    pub(crate) fn kill(&self) {
        // It may be gone already, which is what is wanted.
        rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL).ok();
    }
}

/// What a step between fork and exec failed with. The program itself is named by whoever asked for it.
fn spawn_error(step: SpawnStep, errno: i32) -> IsolationError {
    let (layer, call, remedy) = match step {
        SpawnStep::Exec => return IsolationError::Spawn { program: String::new(), errno },
        SpawnStep::Chdir => (Layer::Exec, "chdir to the working directory", "name one that exists in the sandbox, in a grant"),
        SpawnStep::Rlimits => {
            (Layer::Rlimits, "set the limits of the command", "ask for no more than the caller's own hard limits")
        }
        SpawnStep::Fork => (Layer::Exec, "start a process", "raise the limit of processes"),
    };
    LayerError::new(layer, call, Some(errno)).remedy(remedy).into()
}

/// Reads a supervisor's events, and sends what waits for it, until it is gone.
async fn serve(mut channel: AsyncFd<Channel>, link: Weak<Link>) {
    let why = loop {
        match channel.get_mut().buffered::<Event>() {
            Ok(Some((event, fds))) => match link.upgrade().map(|link| link.dispatch(event, fds)) {
                Some(Ok(())) => {}
                Some(Err(nonsense)) => break nonsense.to_owned(),
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
        // One that speaks nonsense runs nothing any more either.
        link.kill();
        link.lose(&why);
    }
}

/// Waits until something could be read, and sends meanwhile.
async fn exchange(channel: &mut AsyncFd<Channel>, link: &Weak<Link>) -> Result<(), ChannelError> {
    let failed = |e: std::io::Error| ChannelError::Socket(Errno::from_io_error(&e).unwrap_or(Errno::IO));
    let Some(link) = link.upgrade() else { return Err(ChannelError::Closed) };
    let full = {
        let mut outbox = lock(&link.outbox);
        outbox.flush()?.then(|| outbox.socket())
    };
    let room = async {
        match &full {
            // Asked for only now: otherwise every request that is read at the other end would wake this one.
            Some(socket) => ready::once(socket.as_fd(), Interest::WRITABLE).await,
            None => pending().await,
        }
    };
    tokio::select! {
        readable = channel.readable_mut() => {
            let mut guard = readable.map_err(failed)?;
            if !guard.get_inner_mut().fill()? {
                guard.clear_ready();
            }
            Ok(())
        }
        writable = room => writable.map_err(failed),
        () = link.waiting.notified() => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_supervisor::{channel::send, protocol};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::{io::Write, os::unix::process::ExitStatusExt, process::Child};

    /// A link to a process that is no supervisor, our end of its channel, and that process.
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

    async fn loses_its_sandbox(say: impl FnOnce(&Link, OwnedFd)) {
        let (link, reader, theirs, mut child) = impostor();
        let (_, mut news) = link.listen();
        say(&link, theirs);
        reader.await.unwrap();
        while news.recv().await.is_some() {}
        assert!(!link.is_alive());
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert!(link.listen().1.recv().await.is_none());
    }

    fn ended(id: u32) -> Event {
        Event::Ended { id, status: 0, usage: ExecUsage::default(), process_limit: false }
    }

    #[tokio::test(start_paused = true)]
    async fn patience_is_not_lost_while_files_rest() {
        let (link, _reader, _theirs, mut child) = impostor();
        let (ten, began) = (Duration::from_secs(10), tokio::time::Instant::now());
        link.awake_for(ten).await;
        assert_eq!(began.elapsed(), ten);
        let at_rest = link.at_rest.clone();
        tokio::spawn(async move {
            tokio::time::sleep(ten / 2).await;
            at_rest.send_replace(true);
            tokio::time::sleep(ten * 3).await;
            at_rest.send_replace(false);
        });
        link.awake_for(ten).await;
        assert_eq!(began.elapsed(), ten + ten / 2 + ten * 3 + ten);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn a_supervisor_that_speaks_nonsense_loses_its_sandbox() {
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
    async fn a_supervisor_that_floods_an_exec_with_news_loses_its_sandbox() {
        loses_its_sandbox(|_, peer| {
            for _ in 0..=NEWS {
                send(peer.as_fd(), &ended(1), &[]).unwrap();
            }
        })
        .await;
    }

    #[tokio::test]
    async fn figures_of_a_supervisor_do_not_overflow() {
        let (link, reader, theirs, mut child) = impostor();
        let (id, mut news) = link.listen();
        let most = ExecUsage { user_us: u64::MAX, system_us: u64::MAX, max_rss_kib: u64::MAX };
        for id in [id + 1, id] {
            send(theirs.as_fd(), &Event::Ended { id, status: 0, usage: most, process_limit: false }, &[]).unwrap();
        }
        assert!(matches!(news.recv().await, Some(News::Ended { .. })));
        assert_eq!(link.usage().peak_memory, u64::MAX);
        reader.abort();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn news_of_unknown_execs_is_passed_over() {
        let (link, reader, theirs, mut child) = impostor();
        let (id, mut news) = link.listen();
        for other in 100..200 {
            send(theirs.as_fd(), &ended(other), &[]).unwrap();
        }
        send(theirs.as_fd(), &ended(id), &[]).unwrap();
        assert!(matches!(news.recv().await, Some(News::Ended { status: 0, .. })));
        assert!(link.is_alive());
        reader.abort();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
