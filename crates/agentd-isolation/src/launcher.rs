//! The library's side of the launcher.

use crate::{ready, role};
use agentd_core::{IsolationError, LayerReport};
use agentd_kernel::cgroup::Watch;
use agentd_supervisor::{
    channel::{Channel, ChannelError},
    launcher as process,
    plan::SandboxPlan,
    protocol::{self, Order, Report},
};
use std::{
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

/// A sandbox's process, as the launcher made it.
pub(crate) struct Made {
    pub id: u32,
    pub channel: OwnedFd,
    pub pidfd: OwnedFd,
    pub watches: Vec<Watch>,
    pub cgroup: Option<LayerReport>,
}

/// The launcher of this process.
pub(crate) struct Launcher {
    control: tokio::sync::Mutex<Channel>,
    next: AtomicU32,
    /// Sandboxes that were dropped without being destroyed.
    abandoned: Mutex<Vec<u32>>,
}

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
        next: AtomicU32::new(1),
        abandoned: Mutex::new(Vec::new()),
    });
    *slot = Some(launcher.clone());
    Ok(launcher)
}

fn lost(error: &ChannelError) -> IsolationError {
    // The next call starts a new launcher.
    if let Some(slot) = LAUNCHER.get() {
        *slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }
    IsolationError::Lost(format!("launcher: {error}"))
}

impl Launcher {
    /// Makes a sandbox's process.
    pub(crate) async fn create(&self, plan: SandboxPlan) -> Result<Made, IsolationError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (report, mut fds) = self.order(&Order::Create { id, plan: Box::new(plan) }, id).await?;
        match report {
            Report::Created { watches, cgroup, .. } if fds.len() == watches.len() + 2 => {
                let watches = watches.into_iter().zip(fds.split_off(2)).map(|(kind, fd)| Watch { kind, fd }).collect();
                let (Some(pidfd), Some(channel)) = (fds.pop(), fds.pop()) else {
                    return Err(IsolationError::Protocol("descriptors are missing".to_owned()));
                };
                Ok(Made { id, channel, pidfd, watches, cgroup })
            }
            Report::Failed { error, .. } => Err(error.into()),
            other => Err(IsolationError::Protocol(format!("unexpected report {other:?}"))),
        }
    }

    /// Ends a sandbox and waits until nothing of it is left.
    pub(crate) async fn destroy(&self, id: u32) -> Result<(), IsolationError> {
        match self.order(&Order::Destroy { id }, id).await?.0 {
            Report::Destroyed { error: None, .. } => Ok(()),
            Report::Destroyed { error: Some(error), .. } => Err(error.into()),
            other => Err(IsolationError::Protocol(format!("unexpected report {other:?}"))),
        }
    }

    /// Notes that a sandbox has no owner any more; it is destroyed with the next order.
    pub(crate) fn abandon(&self, id: u32) {
        self.abandoned.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(id);
    }

    async fn order(&self, order: &Order, id: u32) -> Result<(Report, Vec<OwnedFd>), IsolationError> {
        let mut channel = self.control.lock().await;
        let abandoned = std::mem::take(&mut *self.abandoned.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for id in abandoned {
            channel.send(&Order::Destroy { id }, &[]).map_err(|e| lost(&e))?;
        }
        channel.send(order, &[]).map_err(|e| lost(&e))?;
        loop {
            while let Some((report, fds)) = channel.buffered::<Report>().map_err(|e| lost(&e))? {
                match &report {
                    Report::Created { id: of, .. } | Report::Failed { id: of, .. } if *of != id => {
                        // Its caller gave up waiting.
                        channel.send(&Order::Destroy { id: *of }, &[]).map_err(|e| lost(&e))?;
                    }
                    Report::Destroyed { id: of, .. } | Report::Frozen { id: of, .. } if *of != id => {}
                    _ => return Ok((report, fds)),
                }
            }
            ready::readable(&channel)
                .await
                .map_err(|source| IsolationError::Io { context: "wait for the launcher".to_owned(), source })?;
            channel.fill().map_err(|e| lost(&e))?;
        }
    }
}
