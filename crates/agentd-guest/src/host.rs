//! The host's handle on a guest: its connection, which may be replaced by another one.

use super::{
    Attach, Copies, Machine, MachineIdentity,
    frame::{MAX_FROM_GUEST, MAX_TO_GUEST},
    identity::now,
    mux::CONNECTION_ENDED,
    protocol::{AttachRequest, FromGuest, Spec, ToGuest},
    sanitize::{bounded, sanitize_layers},
    session::{Operation, Session},
    transport,
};
use agentd_core::{ControlReport, IsolationError, Limits, Root, SandboxSpec, Usage, Writable};
use agentd_isolation::exec::transport::LossError;
use agentd_log::LogFailure as _;
use std::{
    future::Future,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    task::{AbortHandle, JoinHandle},
    time::timeout,
};

/// The time limit for the end of a machine's monitor after the connection to the agent has ended.
const WHY_TIMEOUT: Duration = Duration::from_secs(1);

/// A guest and the connection to its agent. After a lost connection, only [`Guest::adopt`] and [`Guest::renew`] can attach again.
pub struct Guest {
    pub(super) machine: Arc<dyn Machine>,
    pub(super) limits: Limits,
    pub(super) layers: Vec<ControlReport>,
    connection: Mutex<Connection>,
    /// True if the guest's clock has to be set after each pause of the guest.
    clock: AtomicBool,
    /// The reasons for which the guest currently cannot answer.
    pub(super) pauses: watch::Sender<Pauses>,
    made: Instant,
    pub(super) copies: Option<Arc<Copies>>,
    /// The usage that the guest reported last.
    used: Mutex<Usage>,
}

/// The session with the agent, and the task that serves its transport.
struct Connection {
    session: Arc<Session>,
    /// Serves the connection. Returns `Ok` after the answer to [`ToGuest::Quiesce`].
    task: Option<JoinHandle<Result<(), IsolationError>>>,
}

/// The reasons for which a guest cannot answer. The guest runs when no flag is set.
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

fn lost(error: &io::Error) -> IsolationError {
    IsolationError::MachineLost(error.to_string())
}

impl Guest {
    /// Attaches to the agent over a transport.
    pub(super) async fn attach<C>(machine: Arc<dyn Machine>, mut transport: C, how: Attach) -> Result<Arc<Self>, IsolationError>
    where
        C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (attaching, limits, copies) = match how {
            Attach::New(wanted) => {
                check(&wanted.spec)?;
                (AttachRequest::New(Box::new(Spec::new(&wanted.spec, wanted.identity))), wanted.spec.limits, wanted.copies)
            }
            Attach::Adopt { identity, limits } => (AttachRequest::Adopt(identity), *limits, None),
        };
        let clock = attaching.identity().is_some_and(|identity| identity.realtime_ns.is_some());
        let layers = ask(&mut transport, attaching).await?;
        let guest = Arc::new(Self {
            machine,
            limits,
            layers,
            connection: Mutex::new(Connection { session: Session::new(), task: None }),
            clock: AtomicBool::new(clock),
            pauses: watch::Sender::default(),
            made: Instant::now(),
            copies,
            used: Mutex::default(),
        });
        guest.listen(transport);
        Ok(guest)
    }

    /// Spawns the task that serves the session over an attached transport.
    fn listen(&self, transport: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let mut connection = lock(&self.connection);
        let (session, machine) = (connection.session.clone(), self.machine.clone());
        connection.task = Some(tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(transport);
            let end = session.mux.run(&mut reader, &mut writer, |message| session.handle(message)).await;
            let Err(mut why) = end else { return Ok(()) };
            if why.starts_with(CONNECTION_ENDED)
                && !session.is_ending()
                && let Ok(Some(cause)) = timeout(WHY_TIMEOUT, machine.why_ended()).await
            {
                why = format!("{why}: {cause}");
            }
            // A guest that violates the protocol or closes its connection can no longer be controlled, so its machine is killed.
            session.lose(IsolationError::MachineLost, &why);
            if !session.is_ending() {
                machine.kill();
            }
            Err(session.why_lost())
        }));
    }

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
    /// Returns [`IsolationError::MachineLost`] if the guest ended instead, and [`IsolationError::Invalid`] if the guest is
    /// already quiesced.
    pub async fn quiesce(&self) -> Result<(), IsolationError> {
        let (task, session) = {
            let mut connection = lock(&self.connection);
            (connection.task.take(), connection.session.clone())
        };
        let Some(task) = task else {
            return Err(IsolationError::Invalid {
                what: "quiesce request".to_owned(),
                reason: "the guest is already quiesced or disconnected".to_owned(),
            });
        };
        self.pauses.send_modify(|pauses| pauses.quiesced = true);
        session.quiesce()?;
        let mut unfinished = UnfinishedQuiesce { guest: Some(self), task: task.abort_handle() };
        task.await
            .unwrap_or_else(|error| Err(IsolationError::Internal(format!("serve the connection to the guest: {error}"))))?;
        unfinished.guest = None;
        Ok(())
    }

    /// Continues over a new transport to the same guest after [`Guest::quiesce`], with all streams and execs as they were.
    ///
    /// # Errors
    /// Returns [`IsolationError::MachineLost`] if the guest does not answer, and the guest's error if it cannot set its clock.
    pub async fn proceed<C>(&self, mut transport: C) -> Result<(), IsolationError>
    where
        C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let realtime_ns = self.clock.load(Ordering::Relaxed).then(now);
        ask(&mut transport, AttachRequest::Proceed { realtime_ns }).await?;
        self.listen(transport);
        self.pauses.send_modify(|pauses| pauses.quiesced = false);
        Ok(())
    }

    /// Attaches to another machine, restored from an earlier state of this one's memory. Commands that run now are lost. Commands
    /// in the restored memory continue, with nothing connected to their streams.
    ///
    /// # Errors
    /// Returns [`IsolationError::MachineLost`] if the agent does not answer, and the agent's error if the machine cannot assume
    /// `identity`.
    pub async fn adopt<C>(&self, transport: C, identity: MachineIdentity) -> Result<(), IsolationError>
    where
        C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.replace(transport, AttachRequest::Adopt(identity)).await
    }

    /// Attaches to another machine, which has an earlier state of this one's files. Its agent creates a new sandbox over those
    /// files. Commands that run now are lost.
    ///
    /// # Errors
    /// Returns [`IsolationError::MachineLost`] if the agent does not answer, or if the controls of the new sandbox differ from
    /// those of the old one. Returns the agent's error if the sandbox cannot be created.
    pub async fn renew<C>(&self, transport: C, spec: &SandboxSpec, identity: MachineIdentity) -> Result<(), IsolationError>
    where
        C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        check(spec)?;
        self.replace(transport, AttachRequest::New(Box::new(Spec::new(spec, Some(identity))))).await
    }

    async fn replace<C>(&self, mut transport: C, attaching: AttachRequest) -> Result<(), IsolationError>
    where
        C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.let_go("an earlier state of the machine was restored");
        let clock = attaching.identity().is_some_and(|identity| identity.realtime_ns.is_some());
        self.clock.store(clock, Ordering::Relaxed);
        let layers = ask(&mut transport, attaching).await?;
        // The controls that were reported for the sandbox must remain true.
        let strength = |layers: &[ControlReport]| -> Vec<_> {
            layers.iter().map(|report| (report.control, std::mem::discriminant(&report.status))).collect()
        };
        if strength(&layers) != strength(&self.layers) {
            return Err(IsolationError::MachineLost(
                "the controls of the restored sandbox differ from those of the original".to_owned(),
            ));
        }
        lock(&self.connection).session = Session::new();
        self.listen(transport);
        self.pauses.send_modify(|pauses| *pauses = Pauses::default());
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
    pub(super) fn let_go(&self, why: &str) {
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
        usage.wall = self.made.elapsed();
        Ok(usage)
    }
}

/// Guard during an operation that may quiesce a guest. Dropping it kills a guest that is still quiesced.
pub(super) struct QuiesceGuard<'a>(pub(super) &'a Guest);

impl Drop for QuiesceGuard<'_> {
    fn drop(&mut self) {
        if self.0.pauses.borrow().quiesced {
            self.0.end("the guest was left quiesced");
        }
    }
}

/// Guard for a guest that was asked to quiesce. If the wait is cancelled, the state of the connection is unknown, and the guest
/// is killed.
struct UnfinishedQuiesce<'a> {
    guest: Option<&'a Guest>,
    task: AbortHandle,
}

impl Drop for UnfinishedQuiesce<'_> {
    fn drop(&mut self) {
        if let Some(guest) = self.guest {
            self.task.abort();
            guest.end("the guest did not finish quiescing");
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.let_go("dropped");
        self.machine.kill();
    }
}

/// Refuses a spec with a root or a writable layer. The backend handles both when it creates the machine, and removes them from
/// the spec. Ignoring them here would hide a mistake.
fn check(spec: &SandboxSpec) -> Result<(), IsolationError> {
    if spec.root == Root::default() && spec.writable == Writable::default() {
        return Ok(());
    }
    let reason =
        "a sandbox in a virtual machine uses those of the machine — use the defaults, or the container backend".to_owned();
    Err(IsolationError::Invalid { what: "root".to_owned(), reason })
}

/// Exchanges greetings with the agent, sends the purpose of the connection, and returns the controls that the agent reports.
async fn ask<C: AsyncRead + AsyncWrite + Unpin>(
    transport: &mut C,
    mut attaching: AttachRequest,
) -> Result<Vec<ControlReport>, IsolationError> {
    let (mut reader, mut writer) = tokio::io::split(transport);
    transport::greet(&mut reader, &mut writer).await.map_err(|e| lost(&e))?;
    // The exchange of greetings may have taken as long as a machine takes to start.
    if let Some(realtime_ns) = attaching.realtime_ns() {
        *realtime_ns = now();
    }
    transport::send(&mut writer, &ToGuest::Attach(attaching), MAX_TO_GUEST).await.map_err(|e| lost(&e))?;
    match transport::recv(&mut reader, MAX_FROM_GUEST).await.map_err(|e| lost(&e))? {
        FromGuest::Attached(Ok(layers)) => Ok(sanitize_layers(layers)),
        FromGuest::Attached(Err(failure)) => Err(failure.into_error("guest")),
        _ => Err(IsolationError::MachineLost(
            "the guest's agent sent another message instead of its answer to the attach request".to_owned(),
        )),
    }
}

/// Guard for a suspended guest that its machine resumes briefly to save it. If saving is cancelled, nothing would stop the guest
/// again, so dropping this guard kills the guest.
pub struct ResumedToSave<'a> {
    guest: Option<&'a Guest>,
}

impl<'a> ResumedToSave<'a> {
    /// Creates the guard. To be called before the guest runs.
    pub fn new(guest: &'a Guest) -> Self {
        Self { guest: Some(guest) }
    }

    /// Disarms the guard. To be called once the guest is stopped again.
    pub fn disarm(mut self) {
        self.guest = None;
    }
}

impl Drop for ResumedToSave<'_> {
    fn drop(&mut self) {
        if let Some(guest) = self.guest {
            guest.end("the suspended machine was resumed to save it and not stopped again");
        }
    }
}
