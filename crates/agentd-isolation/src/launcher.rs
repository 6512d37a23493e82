//! The library's side of the launcher.
//!
//! Any number of orders can be in progress at once. [`PendingOrders`] matches each report to its order by the sandbox's id. A
//! thread reads the reports ([0070](../../../docs/decisions/0070-read-launcher-reports-in-a-thread.md)). A task cannot read them,
//! because it makes progress only while its caller's runtime is driven. Callers on other runtimes would wait for that runtime.

mod loss;
mod pending_orders;

use agentd_core::IsolationError;
use agentd_log::LogFailure as _;
use agentd_supervisor::{
    channel::{self, Channel, ChannelError},
    launcher::{self, StartedLauncher},
    plan::{ExpectedPlan, SandboxPlan},
    protocol::{self, Order, Report},
};
use loss::Loss;
use pending_orders::{Key, PendingOrders};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType},
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
};

/// A sandbox that the launcher was ordered to create. Dropping it destroys the sandbox unless that was done before.
pub(crate) struct Ordered {
    pub id: u32,
    /// True if killing the first process ends all others (`pid_namespaces(7)`).
    pub namespaced: bool,
    /// Our end of the channel to the supervisor, non-blocking; `None` after it was taken.
    pub channel: Option<OwnedFd>,
    launcher: Arc<Launcher>,
    /// True once the sandbox has been destroyed. Locked while that is in progress.
    destroyed: tokio::sync::Mutex<bool>,
    gone: AtomicBool,
}

impl Ordered {
    /// Destroys the sandbox and waits until nothing of it is left. A second call does nothing.
    ///
    /// The first call runs `kill`, which may kill the sandbox, after the order has been sent. The launcher then wakes on another
    /// processor while this one handles the exiting processes.
    pub(crate) async fn destroy(&self, kill: impl FnOnce() + Send) -> Result<(), IsolationError> {
        self.gone.store(true, Ordering::Relaxed);
        let mut destroyed = self.destroyed.lock().await;
        if !*destroyed {
            self.launcher.order(&Order::Destroy { id: self.id, report: true }, Key::Destroyed(self.id), kill).await?;
            *destroyed = true;
        }
        Ok(())
    }

    /// Freezes all processes of the sandbox, or thaws them.
    pub(crate) async fn freeze(&self, frozen: bool) -> Result<(), IsolationError> {
        self.launcher.order(&Order::Freeze { id: self.id, frozen }, Key::Frozen(self.id), || ()).await
    }

    /// Returns true if the sandbox has been destroyed, or is about to be.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

impl Drop for Ordered {
    fn drop(&mut self) {
        if !*self.destroyed.get_mut() {
            self.launcher.abandon(self.id);
        }
    }
}

/// The launcher of this process.
pub(crate) struct Launcher {
    /// The socket for orders; locked while one is sent.
    orders: Mutex<OwnedFd>,
    pending: PendingOrders,
    loss: Loss,
    /// The launcher's process (`pidfd_open(2)`).
    process: OwnedFd,
}

/// The id of the next sandbox, unique in this process whichever launcher creates the sandbox.
static NEXT: AtomicU32 = AtomicU32::new(1);

static LAUNCHER: OnceLock<Mutex<Option<Arc<Launcher>>>> = OnceLock::new();

/// Returns the launcher of this process; starts one if there is none.
pub(crate) fn get() -> Result<Arc<Launcher>, IsolationError> {
    started(None)
}

/// Starts the launcher of this process, if there is none, and has it start the first process of the next sandbox.
pub(crate) fn prepare(expected: ExpectedPlan) -> Result<(), IsolationError> {
    started(Some(&Order::Prepare(expected))).map(drop)
}

/// Sends `order` to the launcher of this process, and returns the launcher. Starts a launcher if there is none.
fn started(order: Option<&Order>) -> Result<Arc<Launcher>, IsolationError> {
    let mut slot = LAUNCHER.get_or_init(|| Mutex::new(None)).lock().unwrap_or_else(PoisonError::into_inner);
    let (launcher, reports) = match &*slot {
        Some(launcher) => (launcher.clone(), None),
        None => {
            let (launcher, reports) = start()?;
            (launcher, Some(reports))
        }
    };
    // The order is sent before the thread is started, because starting the thread takes about as long as the launcher needs to
    // receive the order.
    let sent = order.map_or(Ok(()), |order| launcher.send(order, &[]));
    if let Some(reports) = reports {
        // The thread starts only after the launcher, because a program with a single thread forks its launcher.
        let reader = launcher.clone();
        let read = move || reader.read_reports(reports);
        thread::Builder::new().name("launcher-report".to_owned()).spawn(read).map_err(not_started)?;
        *slot = Some(launcher.clone());
    }
    drop(slot);
    sent.map_err(|error| launcher.not_sent(error))?;
    Ok(launcher)
}

/// Starts a launcher. Returns it with the channel of its reports.
fn start() -> Result<(Arc<Launcher>, Channel), IsolationError> {
    let StartedLauncher { control, process } = launcher::start()?;
    tracing::debug!("launcher started");
    rustix::io::ioctl_fionbio(&control, true).map_err(|errno| not_started(errno.into()))?;
    let launcher = Launcher::new(control.try_clone().map_err(not_started)?, process);
    Ok((Arc::new(launcher), Channel::new(control, protocol::MAX_EVENT)))
}

fn not_started(source: std::io::Error) -> IsolationError {
    IsolationError::Io { context: "start the launcher".to_owned(), source }
}

impl Launcher {
    fn new(orders: OwnedFd, process: OwnedFd) -> Self {
        Self { orders: Mutex::new(orders), pending: PendingOrders::default(), loss: Loss::default(), process }
    }

    /// Reads reports until the launcher is lost, and then handles the loss.
    fn read_reports(&self, mut reports: Channel) {
        let error = loop {
            match next_report(&mut reports) {
                Ok(report) => self.pending.answer(report),
                Err(error) => break error,
            }
        };
        self.lose(&error);
        self.handle_loss();
    }

    /// Translates a failure to send an order. Unless the order itself is invalid, the launcher is lost.
    fn not_sent(&self, error: ChannelError) -> IsolationError {
        match error {
            ChannelError::Encode(error) => {
                IsolationError::Invalid { what: "sandbox".to_owned(), reason: format!("{error} — use fewer grants") }
            }
            error => IsolationError::LauncherDied(self.lose(&error).to_owned()),
        }
    }

    /// Orders the creation of a sandbox. The supervisor reports over the channel when it has confined itself, or why that failed.
    pub(crate) async fn create(self: &Arc<Self>, plan: SandboxPlan) -> Result<Ordered, IsolationError> {
        let io = |e: rustix::io::Errno| IsolationError::Io {
            context: "create the socket pair for a supervisor".to_owned(),
            source: e.into(),
        };
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(io)?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(io)?;
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespaced = plan.namespaces.enabled;
        let ordered = Ordered {
            id,
            namespaced,
            channel: Some(ours),
            launcher: self.clone(),
            destroyed: tokio::sync::Mutex::new(false),
            gone: AtomicBool::new(false),
        };
        self.sent(self.send(&Order::Create { id, plan: Box::new(plan) }, &[theirs.as_fd()])).await?;
        Ok(ordered)
    }

    /// Translates the result of sending an order, after the loss of the launcher, if any, was handled.
    async fn sent(&self, sent: Result<(), ChannelError>) -> Result<(), IsolationError> {
        match sent {
            Ok(()) => Ok(()),
            Err(error) => {
                let error = self.not_sent(error);
                self.loss.handled().await;
                Err(error)
            }
        }
    }

    /// Sends an order. May block briefly, until the launcher, which never blocks, has read earlier orders.
    fn send(&self, order: &Order, fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        self.send_after(order, fds, || ())
    }

    /// Sends an order. Calls `before` first, in the sequence in which orders of several threads are sent.
    fn send_after(&self, order: &Order, fds: &[BorrowedFd<'_>], before: impl FnOnce()) -> Result<(), ChannelError> {
        let socket = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        before();
        channel::send(socket.as_fd(), order, fds)
    }

    /// Sends an order, calls `meanwhile`, and waits until the launcher has carried the order out.
    async fn order(self: &Arc<Self>, order: &Order, key: Key, meanwhile: impl FnOnce() + Send) -> Result<(), IsolationError> {
        let mut expected = None;
        // The launcher reports the orders of one sandbox in the order in which they were sent.
        let sent = self.send_after(order, &[], || expected = Some(self.pending.expect(key)));
        meanwhile();
        self.sent(sent).await?;
        // The sender is dropped with the launcher's other pending orders when the launcher is lost.
        let answered = expected.ok_or_else(gone)?.await.map_err(|_| gone())?;
        answered.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Orders the destruction of a sandbox that no longer has an owner.
    fn abandon(&self, id: u32) {
        // Sending fails only if the launcher is lost, which has ended its sandboxes.
        let sent = self.send(&Order::Destroy { id, report: false }, &[]);
        sent.map_err(|error| self.not_sent(error)).or_debug("send the order to destroy a dropped sandbox", id);
    }
}

/// Waits for the next report.
fn next_report(reports: &mut Channel) -> Result<Report, ChannelError> {
    loop {
        if let Some((report, _)) = reports.buffered()? {
            return Ok(report);
        }
        // The socket is non-blocking, because orders are also sent over it.
        match poll(&mut [PollFd::new(reports, PollFlags::IN)], None) {
            Ok(_) => drop(reports.fill()?),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Returns the error for an order that the lost launcher did not answer.
fn gone() -> IsolationError {
    IsolationError::LauncherDied("the process ended before it answered an order".to_owned())
}
