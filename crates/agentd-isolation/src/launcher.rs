//! The library's side of the launcher.

use crate::{ready, role};
use agentd_core::{IsolationError, LayerError};
use agentd_supervisor::{
    channel::{Channel, ChannelError},
    launcher as process,
    plan::SandboxPlan,
    protocol::{self, Order, Report},
};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};
use tokio::io::Interest;

/// A sandbox that the launcher was told to make. Dropped without having been destroyed, it is destroyed.
pub(crate) struct Ordered {
    pub id: u32,
    /// Whether killing its first process ends all others (`pid_namespaces(7)`).
    pub namespaced: bool,
    /// Our end of the channel to its supervisor, non-blocking, until it is taken.
    pub channel: Option<OwnedFd>,
    launcher: Arc<Launcher>,
    /// Whether it has been destroyed; held while that is under way.
    destroyed: tokio::sync::Mutex<bool>,
    gone: AtomicBool,
}

impl Ordered {
    /// Ends it and waits until nothing of it is left. The second time there is nothing to do. The first time, `kill` is called, which may
    /// begin what the launcher would: right after that has been told, so that it wakes up on another processor meanwhile and this one is
    /// left to what is dying; at once where somebody else speaks to the launcher.
    pub(crate) async fn destroy(&self, kill: impl FnOnce() + Send) -> Result<(), IsolationError> {
        self.gone.store(true, Ordering::Relaxed);
        let mut destroyed = self.destroyed.lock().await;
        if !*destroyed {
            self.launcher.order(Order::Destroy { id: self.id, report: true }, self.id, kill).await?;
            *destroyed = true;
        }
        Ok(())
    }

    /// Stops all its processes, or lets them go on.
    pub(crate) async fn freeze(&self, frozen: bool) -> Result<(), IsolationError> {
        self.launcher.order(Order::Freeze { id: self.id, frozen }, self.id, || ()).await
    }

    /// Whether it has been destroyed, or is about to be.
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
    control: tokio::sync::Mutex<Channel>,
    /// Sandboxes that were dropped without being destroyed.
    abandoned: Mutex<Vec<u32>>,
}

/// The number of the next sandbox: no two of this process have the same, whichever launcher makes them.
static NEXT: AtomicU32 = AtomicU32::new(1);

static LAUNCHER: OnceLock<Mutex<Option<Arc<Launcher>>>> = OnceLock::new();

/// The launcher, started at the first call.
pub(crate) fn get() -> Result<Arc<Launcher>, IsolationError> {
    if !role::taken() {
        return Err(IsolationError::Invalid {
            what: "embedding program".to_owned(),
            reason: "it must call agentd::isolation::take_role() first in main".to_owned(),
        });
    }
    let slot = LAUNCHER.get_or_init(|| Mutex::new(None));
    let mut slot = slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(launcher) = &*slot {
        return Ok(launcher.clone());
    }
    let io = |source| IsolationError::Io { context: "start the launcher".to_owned(), source };
    let control = process::start().map_err(io)?;
    rustix::io::ioctl_fionbio(&control, true).map_err(|e| io(e.into()))?;
    let launcher = Arc::new(Launcher {
        control: tokio::sync::Mutex::new(Channel::new(control, protocol::MAX_EVENT)),
        abandoned: Mutex::new(Vec::new()),
    });
    *slot = Some(launcher.clone());
    Ok(launcher)
}

impl Launcher {
    /// What a failure of the channel comes to. The next call starts a new launcher, unless that has happened already.
    fn lost(&self, error: ChannelError) -> IsolationError {
        if let ChannelError::Frame(error) = error {
            return IsolationError::Invalid { what: "sandbox".to_owned(), reason: error.to_string() };
        }
        if let Some(slot) = LAUNCHER.get() {
            let mut slot = slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if slot.as_ref().is_some_and(|current| std::ptr::eq(Arc::as_ptr(current), self)) {
                *slot = None;
            }
        }
        IsolationError::Lost(format!("launcher: {error}"))
    }

    /// Has a sandbox made. Its supervisor says over the channel when it is sealed, or why there is none.
    pub(crate) async fn create(self: &Arc<Self>, plan: SandboxPlan) -> Result<Ordered, IsolationError> {
        let io = |e: rustix::io::Errno| IsolationError::Io { context: "socketpair".to_owned(), source: e.into() };
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
        let control = self.control.lock().await;
        let order = Order::Create { id, plan: Box::new(plan) };
        let sent = control.send(&order, &[theirs.as_fd()]).map_err(|e| self.lost(e));
        drop(control);
        self.clear_abandoned();
        sent.map(|()| ordered)
    }

    /// Gives an order and waits until it has been carried out; calls `beside` before it waits.
    async fn order(&self, order: Order, id: u32, beside: impl FnOnce() + Send) -> Result<(), IsolationError> {
        let result = self.exchange(order, id, beside).await;
        self.clear_abandoned();
        result?.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Has a sandbox destroyed that has no owner any more. It never waits: whoever holds the channel does it, at once or when done.
    fn abandon(&self, id: u32) {
        self.abandoned().push(id);
        self.clear_abandoned();
    }

    fn abandoned(&self) -> std::sync::MutexGuard<'_, Vec<u32>> {
        self.abandoned.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn clear_abandoned(&self) {
        while !self.abandoned().is_empty() {
            // Who holds it calls this when it is free again.
            let Ok(channel) = self.control.try_lock() else { return };
            for id in std::mem::take(&mut *self.abandoned()) {
                if let Err(error) = channel.send(&Order::Destroy { id, report: false }, &[]) {
                    self.lost(error);
                    return;
                }
            }
        }
    }

    async fn exchange(&self, order: Order, id: u32, beside: impl FnOnce() + Send) -> Result<Option<LayerError>, IsolationError> {
        let freezes = matches!(order, Order::Freeze { .. });
        let mut channel = match self.control.try_lock() {
            Ok(channel) => {
                let sent = channel.send(&order, &[]);
                beside();
                sent.map_err(|e| self.lost(e))?;
                channel
            }
            Err(_) => {
                beside();
                let channel = self.control.lock().await;
                channel.send(&order, &[]).map_err(|e| self.lost(e))?;
                channel
            }
        };
        loop {
            while let Some((report, _)) = channel.buffered::<Report>().map_err(|e| self.lost(e))? {
                match report {
                    Report::Destroyed { id: of, error } if of == id && !freezes => return Ok(error),
                    Report::Frozen { id: of, error } if of == id && freezes => return Ok(error),
                    // Those of sandboxes that nobody waits for.
                    _ => {}
                }
            }
            ready::once(channel.as_fd(), Interest::READABLE)
                .await
                .map_err(|source| IsolationError::Io { context: "wait for the launcher".to_owned(), source })?;
            channel.fill().map_err(|e| self.lost(e))?;
        }
    }
}
