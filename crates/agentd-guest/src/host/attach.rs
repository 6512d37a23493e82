//! Attaches to a guest: to a new one, to one that was quiesced, and to a machine that replaces the guest's machine.

use super::{Connection, Guest, Pauses, lock};
use crate::{
    Attach, Machine, MachineIdentity,
    frame::{MAX_FROM_GUEST, MAX_TO_GUEST},
    identity::now,
    mux::CONNECTION_ENDED,
    protocol::{AttachRequest, FromGuest, Spec, ToGuest},
    sanitize::sanitize_controls,
    session::Session,
    transport,
};
use agentd_core::{ControlReport, IsolationError, Root, SandboxSpec, Writable};
use agentd_isolation::egress::MachineGateway;
use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::timeout,
};

/// The time limit for the end of a machine's monitor after the connection to the agent has ended.
const MONITOR_TIMEOUT: Duration = Duration::from_secs(1);

impl Guest {
    /// Attaches to the agent over a transport.
    pub(crate) async fn attach<C>(machine: Arc<dyn Machine>, mut transport: C, how: Attach) -> Result<Arc<Self>, IsolationError>
    where
        C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (attaching, limits, copies, gateway) = match how {
            Attach::New(wanted) => {
                check(&wanted.spec)?;
                // Before the agent creates the sandbox, so that no program runs without the gateway.
                let gateway = MachineGateway::start(&wanted.spec).await?.map(Arc::new);
                let spec = spec(&wanted.spec, wanted.identity, gateway.as_deref());
                (AttachRequest::New(Box::new(spec)), wanted.spec.limits, wanted.copies, gateway)
            }
            Attach::Adopt { identity, limits, gateway } => (AttachRequest::Adopt(identity), *limits, None, gateway),
        };
        let adopts = matches!(attaching, AttachRequest::Adopt(_));
        let clock = attaching.identity().is_some_and(|identity| identity.realtime_ns.is_some());
        let controls = ask(&mut transport, attaching).await?;
        let guest = Arc::new(Self {
            machine,
            limits,
            controls,
            connection: Mutex::new(Connection {
                session: Session::new(gateway.as_deref().map(MachineGateway::port)),
                task: None,
            }),
            clock: AtomicBool::new(clock),
            pauses: watch::Sender::default(),
            created: Instant::now(),
            copies,
            gateway,
            used: Mutex::default(),
        });
        guest.listen(transport);
        if adopts {
            guest.listen_at_all_ports().await?;
        }
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
                && let Ok(Some(cause)) = timeout(MONITOR_TIMEOUT, machine.why_ended()).await
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
    /// in the restored memory continue, with their streams disconnected.
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
        let spec = self::spec(spec, Some(identity), self.gateway.as_deref());
        self.replace(transport, AttachRequest::New(Box::new(spec))).await
    }

    async fn replace<C>(&self, mut transport: C, attaching: AttachRequest) -> Result<(), IsolationError>
    where
        C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.detach("an earlier state of the machine was restored");
        let clock = attaching.identity().is_some_and(|identity| identity.realtime_ns.is_some());
        self.clock.store(clock, Ordering::Relaxed);
        let controls = ask(&mut transport, attaching).await?;
        // The controls that were reported for the sandbox must remain true.
        let strength = |controls: &[ControlReport]| -> Vec<_> {
            controls.iter().map(|report| (report.control, std::mem::discriminant(&report.status))).collect()
        };
        if strength(&controls) != strength(&self.controls) {
            return Err(IsolationError::MachineLost(
                "the controls of the restored sandbox differ from those of the original".to_owned(),
            ));
        }
        lock(&self.connection).session = Session::new(self.port());
        self.listen(transport);
        self.pauses.send_modify(|pauses| *pauses = Pauses::default());
        self.listen_at_all_ports().await
    }
}

/// Returns the spec for the agent. Its network is the current one of the gateway.
fn spec(spec: &SandboxSpec, identity: Option<MachineIdentity>, gateway: Option<&MachineGateway>) -> Spec {
    let mut wanted = Spec::new(spec, identity);
    if let Some(gateway) = gateway {
        wanted.network = gateway.network();
        wanted.trust = gateway.trust().cloned();
    }
    wanted
}

/// Refuses a spec with a root or a writable layer. The backend handles both when it creates the machine, and removes them from
/// the spec. Ignoring them here would hide a mistake.
fn check(spec: &SandboxSpec) -> Result<(), IsolationError> {
    if spec.root == Root::default() && spec.writable == Writable::default() {
        return Ok(());
    }
    let reason =
        "a sandbox in a virtual machine uses those of the machine — use the defaults, or the container backend".to_owned();
    Err(IsolationError::Invalid { what: "root file system".to_owned(), reason })
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
        FromGuest::Attached(Ok(controls)) => Ok(sanitize_controls(controls)),
        FromGuest::Attached(Err(failure)) => Err(failure.into_error("guest")),
        _ => Err(IsolationError::MachineLost(
            "the guest's agent sent another message instead of its answer to the attach request".to_owned(),
        )),
    }
}

fn lost(error: &io::Error) -> IsolationError {
    IsolationError::MachineLost(error.to_string())
}
