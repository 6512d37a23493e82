//! The host's hold on a guest: its connection, which may be replaced by another one.

use super::{
    Attach, Copies, Identity, Machine, carrier,
    frame::{MAX_FROM_GUEST, MAX_TO_GUEST},
    identity::now,
    protocol::{Attaching, FromGuest, Spec, ToGuest},
    session::{Operation, Session},
    told::{told, within_reason},
};
use agentd_core::{IsolationError, LayerReport, Limits, Root, SandboxSpec, Usage, Writable};
use std::{
    future::Future,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    task::{AbortHandle, JoinHandle},
};

/// A guest. What is lost of it is never found again, but for [`Guest::adopt`].
pub struct Guest {
    pub(super) machine: Arc<dyn Machine>,
    pub(super) limits: Limits,
    pub(super) layers: Vec<LayerReport>,
    connection: Mutex<Connection>,
    /// Whether its clock is told the time whenever it may have stood still.
    clock: AtomicBool,
    /// Whether it stands still, so that nothing can be expected of it.
    pub(super) still: watch::Sender<Still>,
    made: Instant,
    pub(super) copies: Option<Arc<Copies>>,
    /// The last that was told.
    used: Mutex<Usage>,
}

struct Connection {
    session: Arc<Session>,
    /// Ends well with the answer to [`ToGuest::Quiesce`].
    task: Option<JoinHandle<Result<(), IsolationError>>>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Still {
    suspended: bool,
    quiet: bool,
    /// Its files are: what writes to them waits, and does not end.
    pub(super) frozen: bool,
}

impl Still {
    pub(super) fn runs(self) -> bool {
        !self.suspended && !self.quiet && !self.frozen
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lost(error: &io::Error) -> IsolationError {
    IsolationError::Lost(format!("guest: {error}"))
}

impl Guest {
    /// Attaches over a carrier.
    pub(super) async fn attach<C>(machine: Arc<dyn Machine>, mut carrier: C, how: Attach) -> Result<Arc<Self>, IsolationError>
    where
        C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (attaching, limits, copies) = match how {
            Attach::New(wanted) => {
                check(&wanted.spec)?;
                (Attaching::New(Box::new(Spec::new(&wanted.spec, wanted.identity))), wanted.spec.limits, wanted.copies)
            }
            Attach::Adopt { identity, limits } => (Attaching::Adopt(identity), limits, None),
        };
        let clock = attaching.identity().is_some_and(|identity| identity.realtime_ns.is_some());
        let layers = ask(&mut carrier, attaching).await?;
        let guest = Arc::new(Self {
            machine,
            limits,
            layers,
            connection: Mutex::new(Connection { session: Session::new(), task: None }),
            clock: AtomicBool::new(clock),
            still: watch::Sender::default(),
            made: Instant::now(),
            copies,
            used: Mutex::default(),
        });
        guest.listen(carrier);
        Ok(guest)
    }

    /// Carries the session over a carrier that has been attached.
    fn listen(&self, carrier: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let mut connection = lock(&self.connection);
        let (session, machine) = (connection.session.clone(), self.machine.clone());
        connection.task = Some(tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(carrier);
            let end = session.mux.run(&mut reader, &mut writer, |said| session.hear(said)).await;
            end.map_err(|why| {
                // One that speaks nonsense, or nothing, runs nothing any more either.
                session.lose(&format!("guest: {why}"));
                if !session.is_ending() {
                    machine.kill();
                }
                session.why_lost()
            })
        }));
    }

    /// What is attached now.
    pub(super) fn session(&self) -> Arc<Session> {
        lock(&self.connection).session.clone()
    }

    /// Whether anything can be asked of it.
    pub(super) fn is_alive(&self) -> bool {
        self.session().mux.lost().is_none()
    }

    /// Whether it answers what it is asked: it lives, and does not stand still.
    pub(super) fn answers(&self) -> bool {
        self.is_alive() && self.still.borrow().runs()
    }

    /// Both sides stop sending, and nothing is in flight: the machine's memory may be saved when this returns. What is asked for meanwhile
    /// waits until [`Guest::proceed`]. The carrier is closed on this side. A guest that does not come to rest makes this wait for ever; given
    /// up before, its machine is killed.
    ///
    /// # Errors
    /// [`IsolationError::Lost`] with a guest that ended instead; [`IsolationError::Invalid`] for one that is quiet already.
    pub async fn quiesce(&self) -> Result<(), IsolationError> {
        let (task, session) = {
            let mut connection = lock(&self.connection);
            (connection.task.take(), connection.session.clone())
        };
        let Some(task) = task else {
            return Err(IsolationError::Invalid { what: "quiesce".to_owned(), reason: "it is quiet already".to_owned() });
        };
        self.still.send_modify(|still| still.quiet = true);
        session.rest()?;
        let mut unfinished = Unfinished { guest: Some(self), task: task.abort_handle() };
        task.await.unwrap_or_else(|error| Err(IsolationError::Lost(error.to_string())))?;
        unfinished.guest = None;
        Ok(())
    }

    /// Goes on over a new carrier to the same guest after [`Guest::quiesce`], with all streams and execs as they were.
    ///
    /// # Errors
    /// [`IsolationError::Lost`] when it is not there any more.
    pub async fn proceed<C>(&self, mut carrier: C) -> Result<(), IsolationError>
    where
        C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let realtime_ns = self.clock.load(Ordering::Relaxed).then(now);
        ask(&mut carrier, Attaching::Proceed { realtime_ns }).await?;
        self.listen(carrier);
        self.still.send_modify(|still| still.quiet = false);
        Ok(())
    }

    /// Attaches to another machine, made of the memory that this one had once: what runs here is lost, and what ran there goes on, with
    /// nobody at its streams.
    ///
    /// # Errors
    /// [`IsolationError::Lost`], and what hinders the machine from becoming `identity`.
    pub async fn adopt<C>(&self, carrier: C, identity: Identity) -> Result<(), IsolationError>
    where
        C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.replace(carrier, Attaching::Adopt(identity)).await
    }

    /// Attaches to another machine, which has the files that this one had once: its agent makes the sandbox anew over them, and what runs
    /// here is lost.
    ///
    /// # Errors
    /// [`IsolationError::Lost`], and what hinders the sandbox from being made as strong as it was.
    pub async fn renew<C>(&self, carrier: C, spec: &SandboxSpec, identity: Identity) -> Result<(), IsolationError>
    where
        C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        check(spec)?;
        self.replace(carrier, Attaching::New(Box::new(Spec::new(spec, Some(identity))))).await
    }

    async fn replace<C>(&self, mut carrier: C, attaching: Attaching) -> Result<(), IsolationError>
    where
        C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.let_go("it went back to what it was");
        let clock = attaching.identity().is_some_and(|identity| identity.realtime_ns.is_some());
        self.clock.store(clock, Ordering::Relaxed);
        let layers = ask(&mut carrier, attaching).await?;
        // What was told of the sandbox stays true.
        let strength = |layers: &[LayerReport]| -> Vec<_> {
            layers.iter().map(|report| (report.layer, std::mem::discriminant(&report.status))).collect()
        };
        if strength(&layers) != strength(&self.layers) {
            return Err(IsolationError::Lost("guest: it came back with other layers".to_owned()));
        }
        lock(&self.connection).session = Session::new();
        self.listen(carrier);
        self.still.send_modify(|still| *still = Still::default());
        Ok(())
    }

    /// Asks the agent to end everything, flush the file systems and exit; returns when the carrier has ended. What it wrote is then on disk,
    /// and the machine is still to be destroyed. A guest that does not end makes this wait for ever.
    pub async fn shutdown(&self) {
        let (task, session) = {
            let mut connection = lock(&self.connection);
            (connection.task.take(), connection.session.clone())
        };
        if let Some(task) = task
            && session.shut_down().is_ok()
        {
            // It ends in any case.
            task.await.ok();
        }
    }

    /// Forgets the connection, and leaves the machine as it is.
    pub(super) fn let_go(&self, why: &str) {
        let mut connection = lock(&self.connection);
        if let Some(task) = connection.task.take() {
            task.abort();
        }
        connection.session.lose(why);
    }

    /// Ends the machine at once.
    pub(super) fn end(&self, why: &str) {
        self.let_go(why);
        self.machine.kill();
    }

    /// Stops the machine, or lets it go on.
    pub(super) async fn suspend(&self, suspended: bool) -> Result<(), IsolationError> {
        if !self.is_alive() {
            return Err(self.session().why_lost());
        }
        if suspended {
            // First of all: from now on nothing is expected of it.
            let before = self.still.borrow().suspended;
            self.still.send_modify(|still| still.suspended = true);
            let result = self.machine.suspend().await;
            if result.is_err() {
                self.still.send_modify(|still| still.suspended = before);
            }
            return result;
        }
        self.machine.resume().await?;
        self.still.send_modify(|still| still.suspended = false);
        if self.clock.load(Ordering::Relaxed) {
            self.session().request(&ToGuest::Clock { realtime_ns: now() })?;
        }
        Ok(())
    }

    /// Waits for so long in which the machine runs, without a break.
    pub(super) fn running_for(&self, patience: std::time::Duration) -> impl Future<Output = ()> + use<> {
        let mut still = self.still.subscribe();
        async move {
            // What tells of it is gone with the guest.
            while still.wait_for(|still| still.runs()).await.is_ok() {
                tokio::select! {
                    () = tokio::time::sleep(patience) => return,
                    _ = still.changed() => {}
                }
            }
        }
    }

    /// What the sandbox used so far, as the guest counts it. One that stands still has used what it told last.
    pub(super) async fn usage(&self) -> Result<Usage, IsolationError> {
        let mut usage = *lock(&self.used);
        if self.answers() {
            let mut operation = self.session().begin()?;
            operation.session.request(&ToGuest::Usage { id: operation.id })?;
            match operation.answer("").await? {
                FromGuest::Used { usage: told, .. } => usage = within_reason(told),
                _ => return Err(Operation::out_of_order()),
            }
            *lock(&self.used) = usage;
        }
        usage.wall = self.made.elapsed();
        Ok(usage)
    }
}

/// While it is held, a guest may rest; one that is left at rest by whoever gives up what it rests for is ended.
pub(super) struct Rest<'a>(pub(super) &'a Guest);

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        if self.0.still.borrow().quiet {
            self.0.end("it was left at rest");
        }
    }
}

/// A guest that was told to be quiet: nobody knows what it still says when that is given up.
struct Unfinished<'a> {
    guest: Option<&'a Guest>,
    task: AbortHandle,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(guest) = self.guest {
            self.task.abort();
            guest.end("it did not come to rest");
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.end("nobody holds it any more");
    }
}

/// What a machine is made of is its backend's matter, which takes that out of the spec when it has made it: nothing is left out unsaid.
fn check(spec: &SandboxSpec) -> Result<(), IsolationError> {
    if spec.root == Root::default() && spec.writable == Writable::default() {
        return Ok(());
    }
    let reason = "a sandbox in a machine has the machine's own".to_owned();
    Err(IsolationError::Invalid { what: "root".to_owned(), reason })
}

/// Greets the agent at the other end, and says what the connection is for.
async fn ask<C: AsyncRead + AsyncWrite + Unpin>(
    carrier: &mut C,
    mut attaching: Attaching,
) -> Result<Vec<LayerReport>, IsolationError> {
    let (mut reader, mut writer) = tokio::io::split(carrier);
    carrier::greet(&mut reader, &mut writer).await.map_err(|e| lost(&e))?;
    // Greeting may have taken as long as a machine takes to start.
    if let Some(realtime_ns) = attaching.realtime_ns() {
        *realtime_ns = now();
    }
    carrier::say(&mut writer, &ToGuest::Attach(attaching), MAX_TO_GUEST).await.map_err(|e| lost(&e))?;
    match carrier::hear(&mut reader, MAX_FROM_GUEST).await.map_err(|e| lost(&e))? {
        FromGuest::Attached(Ok(layers)) => Ok(told(layers)),
        FromGuest::Attached(Err(failure)) => Err(failure.into_error("guest")),
        _ => Err(IsolationError::Lost("guest: it said something before it attached".to_owned())),
    }
}

/// A suspended guest that its machine lets run for a moment, to be saved. Given up then, nobody would stop it again, so it is ended.
pub(crate) struct Awake<'a> {
    guest: Option<&'a Guest>,
}

impl<'a> Awake<'a> {
    /// Before it runs.
    pub(crate) fn new(guest: &'a Guest) -> Self {
        Self { guest: Some(guest) }
    }

    /// It is stopped again.
    pub(crate) fn over(mut self) {
        self.guest = None;
    }
}

impl Drop for Awake<'_> {
    fn drop(&mut self) {
        if let Some(guest) = self.guest {
            guest.end("a suspended machine could not be stopped again");
        }
    }
}
