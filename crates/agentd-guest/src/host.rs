//! The host's handle on a guest: its connection, which may be replaced by another one.

mod attach;
mod guard;
mod network;

pub(super) use guard::QuiesceGuard;
pub use guard::ResumedToSave;

use super::{
    Copies, Machine,
    identity::now,
    protocol::{FromGuest, ToGuest},
    sanitize::bounded,
    session::{Operation, Session},
};
use agentd_core::{ControlReport, IsolationError, Limits, Usage};
use agentd_isolation::{egress::MachineGateway, exec::transport::LossError};
use agentd_log::LogFailure as _;
use guard::UnfinishedQuiesce;
use std::{
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};
use tokio::{sync::watch, task::JoinHandle};

/// A guest and the connection to its agent. After a lost connection, only [`Guest::adopt`] and [`Guest::renew`] can attach again.
pub struct Guest {
    pub(super) machine: Arc<dyn Machine>,
    pub(super) limits: Limits,
    pub(super) controls: Vec<ControlReport>,
    connection: Mutex<Connection>,
    /// True if the guest's clock has to be set after each pause of the guest.
    clock: AtomicBool,
    /// The reasons why the guest currently cannot answer.
    pub(super) pauses: watch::Sender<Pauses>,
    created: Instant,
    pub(super) copies: Option<Arc<Copies>>,
    /// The gateway to granted hosts, if the sandbox has any. It outlives every connection to the agent.
    pub(super) gateway: Option<Arc<MachineGateway>>,
    /// The usage that the guest reported last.
    used: Mutex<Usage>,
}

/// The session with the agent, and the task that serves its transport.
struct Connection {
    session: Arc<Session>,
    /// Serves the connection. Returns `Ok` after the answer to [`ToGuest::Quiesce`].
    task: Option<JoinHandle<Result<(), IsolationError>>>,
}

/// The reasons why a guest cannot answer. The guest runs when no flag is set.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pauses {
    suspended: bool,
    quiesced: bool,
    /// The root's file system is frozen: a process that writes to it blocks and cannot be killed.
    pub(super) frozen: bool,
}

impl Pauses {
    pub(super) fn runs(self) -> bool {
        !self.suspended && !self.quiesced && !self.frozen
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Guest {
    /// Returns the current session.
    pub(super) fn session(&self) -> Arc<Session> {
        lock(&self.connection).session.clone()
    }

    /// Returns true unless the connection is lost.
    pub(super) fn is_alive(&self) -> bool {
        self.session().mux.lost().is_none()
    }

    /// Returns true if the guest can answer requests: the connection exists, and the guest is not stopped.
    pub(super) fn answers(&self) -> bool {
        self.is_alive() && self.pauses.borrow().runs()
    }

    /// Makes both sides stop sending, so that nothing is in flight. The machine's memory may be saved after this call. Requests
    /// made afterwards wait until [`Guest::proceed`]. The transport is closed on this side.
    ///
    /// There is no timeout: a guest that does not answer blocks this call. If the call is cancelled, the machine is killed.
    ///
    /// # Errors
    /// Returns [`IsolationError::MachineLost`] if the guest ended instead, and [`IsolationError::Protocol`] if the guest is
    /// already quiesced.
    pub async fn quiesce(&self) -> Result<(), IsolationError> {
        let (task, session) = {
            let mut connection = lock(&self.connection);
            (connection.task.take(), connection.session.clone())
        };
        let Some(task) = task else {
            return Err(IsolationError::Protocol("quiesce the guest: the guest is already quiesced or disconnected".to_owned()));
        };
        self.pauses.send_modify(|pauses| pauses.quiesced = true);
        session.quiesce()?;
        let mut unfinished = UnfinishedQuiesce { guest: Some(self), task: task.abort_handle() };
        task.await
            .unwrap_or_else(|error| Err(IsolationError::Internal(format!("serve the connection to the guest: {error}"))))?;
        unfinished.guest = None;
        Ok(())
    }

    /// Asks the agent to end everything, flush the file systems and exit, and waits until the transport ends. All writes are then
    /// on disk, and the caller still has to destroy the machine. There is no timeout: a guest that does not exit blocks this
    /// call.
    pub async fn shutdown(&self) {
        let (task, session) = {
            let mut connection = lock(&self.connection);
            (connection.task.take(), connection.session.clone())
        };
        if let Some(task) = task
            && session.shut_down().is_ok()
        {
            // The connection is expected to end, so its error is only logged.
            task.await.or_warn("serve the guest", "session");
        }
    }

    /// Closes the connection, and leaves the machine unchanged.
    pub(super) fn detach(&self, why: &str) {
        self.disconnect(IsolationError::SandboxGone, why);
    }

    fn disconnect(&self, loss: LossError, why: &str) {
        let mut connection = lock(&self.connection);
        if let Some(task) = connection.task.take() {
            task.abort();
        }
        connection.session.lose(loss, why);
    }

    /// Closes the connection, and kills the machine.
    pub(super) fn end(&self, why: &str) {
        self.disconnect(IsolationError::MachineLost, why);
        self.machine.kill();
    }

    /// Stops or resumes the machine.
    pub(super) async fn suspend(&self, suspended: bool) -> Result<(), IsolationError> {
        if !self.is_alive() {
            return Err(self.session().why_lost());
        }
        if suspended {
            // Set before the machine stops, because from now on no answer can be expected.
            let before = self.pauses.borrow().suspended;
            self.pauses.send_modify(|pauses| pauses.suspended = true);
            let result = self.machine.suspend().await;
            if result.is_err() {
                self.pauses.send_modify(|pauses| pauses.suspended = before);
            }
            return result;
        }
        self.machine.resume().await?;
        self.pauses.send_modify(|pauses| pauses.suspended = false);
        if self.clock.load(Ordering::Relaxed) {
            self.session().request(&ToGuest::Clock { realtime_ns: now() })?;
        }
        Ok(())
    }

    /// Waits until the machine has run for `max_wait` without interruption. Time in which the guest is stopped does not count.
    /// Also returns when the guest is dropped.
    pub(super) fn running_for(&self, max_wait: std::time::Duration) -> impl Future<Output = ()> + use<> {
        let mut pauses = self.pauses.subscribe();
        async move {
            // The watch channel closes when the guest is dropped.
            while pauses.wait_for(|pauses| pauses.runs()).await.is_ok() {
                tokio::select! {
                    () = tokio::time::sleep(max_wait) => return,
                    _ = pauses.changed() => {}
                }
            }
        }
    }

    /// Returns the resources that the sandbox has used, as counted by the guest. For a stopped guest these are the last reported
    /// figures. Wall time is measured by the host.
    pub(super) async fn usage(&self) -> Result<Usage, IsolationError> {
        let mut usage = *lock(&self.used);
        if self.answers() {
            let mut operation = self.session().begin()?;
            operation.session.request(&ToGuest::Usage { id: operation.id })?;
            match operation.answer("").await? {
                FromGuest::Used { usage: reported, .. } => usage = bounded(reported),
                _ => return Err(Operation::out_of_order()),
            }
            *lock(&self.used) = usage;
        }
        usage.wall = self.created.elapsed();
        Ok(usage)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.detach("dropped");
        self.machine.kill();
    }
}
