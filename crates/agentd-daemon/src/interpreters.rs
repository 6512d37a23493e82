//! Interpreters: commands that outlive their clients. The daemon keeps the descriptors of an interpreter, and lends copies to one
//! client after another. What passes between a client and an interpreter does not pass through the daemon.
//!
//! A client that leaves without releasing an interpreter may have left a message unfinished. The interpreter is then killed, so
//! that the next client does not take the rest of that message for its own.

use crate::{
    commands::{compare_after, send_streams, tell},
    connection::Connection,
    error::DaemonError,
    host_approver::{self, HostWait},
    protocol::{ExecMessage, Reply},
    serve::Server,
};
use agentd_core::{Command, ControlReport, EndReason, ExecHandle, ExecStreams, IsolationError, Outcome, Sandbox};
use agentd_isolation::protect::Interrupt;
use agentd_log::LogFailure as _;
use agentd_sandboxes::Name;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::{
    collections::HashMap,
    future::ready,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::broadcast;

/// The interpreter of one sandbox, if it has one. A client that uses the interpreter holds the lock.
type InterpreterSlot = Arc<tokio::sync::Mutex<Option<Interpreter>>>;

/// The interpreters of all sandboxes.
#[derive(Default)]
pub(crate) struct Interpreters(Mutex<HashMap<Name, InterpreterSlot>>);

/// A running interpreter. Dropping the value kills it.
struct Interpreter {
    handle: Box<dyn ExecHandle>,
    /// The daemon's copies. Standard input is a socket.
    streams: ExecStreams,
    controls: Vec<ControlReport>,
    /// The interpreter counts as a command of its sandbox.
    _running: Arc<()>,
}

impl Interpreters {
    fn all(&self) -> MutexGuard<'_, HashMap<Name, InterpreterSlot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of commands of a sandbox that are its interpreter: 0 or 1.
    pub(crate) fn kept(&self, name: &Name) -> usize {
        let slot = self.all().get(name).cloned();
        // While a client uses the interpreter, the request counts as another command.
        slot.map_or(0, |slot| slot.try_lock().map_or(1, |interpreter| usize::from(interpreter.is_some())))
    }

    /// Forgets the interpreter of a sandbox whose processes have ended.
    pub(crate) fn forget(&self, name: &Name) {
        self.all().remove(name);
    }

    fn get(&self, name: &Name) -> InterpreterSlot {
        self.all().entry(name.clone()).or_default().clone()
    }
}

impl Interpreter {
    async fn start(sandbox: &dyn Sandbox, command: Command, running: Arc<()>) -> Result<Self, DaemonError> {
        let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let (ours, theirs) = pair.map_err(|errno| IsolationError::Io {
            context: "create a socket for the interpreter".to_owned(),
            source: errno.into(),
        })?;
        let mut handle = sandbox.exec_on(command, theirs).await?;
        let streams = ExecStreams { stdin: Some(ours), ..handle.take_streams() };
        Ok(Self { handle, streams, controls: sandbox.controls().to_vec(), _running: running })
    }

    /// Returns true if the interpreter has ended since it was last used.
    async fn has_ended(&mut self) -> bool {
        tokio::select! {
            biased;
            _ = self.handle.wait() => true,
            () = ready(()) => false,
        }
    }

    /// Serves a client that uses the interpreter. Returns the outcome if the interpreter has ended, and `None` if the client has
    /// released it.
    async fn serve(
        &mut self,
        client: &mut Connection,
        (waits, name): (&mut broadcast::Receiver<HostWait>, &Name),
    ) -> Option<Result<Outcome, IsolationError>> {
        loop {
            tokio::select! {
                outcome = self.handle.wait() => return Some(outcome),
                wait = host_approver::next(waits, name) => tell(client, wait),
                message = client.receive::<ExecMessage>() => match message {
                    // A signal or request that cannot be delivered comes too late: waiting returns the outcome.
                    Ok((ExecMessage::Signal(signal), _)) => {
                        self.handle.signal(signal).await.or_debug("send signal", signal);
                    }
                    Ok((ExecMessage::End(reason), _)) => {
                        self.handle.end(reason).await.or_debug("end", "interpreter");
                    }
                    Ok((ExecMessage::Resize(_), _)) => {}
                    Ok((ExecMessage::Release, _)) => return None,
                    Err(_) => {
                        self.handle.end(EndReason::Cancelled).await.or_debug("end", "interpreter");
                        return Some(self.handle.wait().await);
                    }
                },
            }
        }
    }
}

impl Server {
    /// Starts an interpreter with this command, or takes the running one, and lends it to the client until the client releases
    /// it, or until one of them ends.
    pub(crate) async fn lend_interpreter(
        &self,
        name: &Name,
        start: Option<Box<Command>>,
        client: &mut Connection,
    ) -> Result<(), DaemonError> {
        self.exists(name).await?;
        let mut slot = tokio::select! {
            slot = self.interpreters.get(name).lock_owned() => slot,
            _ = client.receive::<ExecMessage>() => {
                return Err(DaemonError::Refused(format!("use the interpreter of sandbox {name}: the client left while it waited")));
            }
        };
        if let Some(interpreter) = slot.as_mut()
            && interpreter.has_ended().await
        {
            *slot = None;
        }
        if slot.is_none() && start.is_none() {
            return Err(DaemonError::NoInterpreter(name.clone()));
        }
        if slot.is_some() && start.is_some() {
            return Err(DaemonError::Refused(format!(
                "start an interpreter in sandbox {name}: one is running already — use it, or remove the sandbox"
            )));
        }
        let (sandbox, running, watched) = self.used_while_connected(name, None, client).await?;
        let mut waits = self.runtimes.waits();
        let interpreter = match (slot.take(), start) {
            (Some(interpreter), _) => slot.insert(interpreter),
            (None, Some(command)) => slot.insert(Interpreter::start(&*sandbox, *command, running.clone()).await?),
            (None, None) => return Err(DaemonError::NoInterpreter(name.clone())),
        };
        watched.deliver(|report| send_streams(client, &interpreter.streams, &interpreter.controls, report)).await?;
        let ended = interpreter.serve(client, (&mut waits, name)).await;
        if ended.is_some() {
            *slot = None;
        }
        self.used(name).await;
        let report = compare_after(&watched, &Interrupt::default(), client).await;
        drop(running);
        let sent = match ended {
            None => watched.deliver(|report| Ok(client.send(&Reply::Compared(report), &[])?)).await,
            Some(Ok(outcome)) => watched.deliver(|report| Ok(client.send(&Reply::Ended(Box::new(outcome), report), &[])?)).await,
            Some(Err(error)) => {
                watched.keep().await;
                Err(error.into())
            }
        };
        if sent.is_err() {
            watched.note(name, report).await;
        }
        sent
    }
}
