//! The host's side of a connection: sends requests and dispatches answers. Everything received from a guest is untrusted.

use super::{
    frame::{FrameError, MAX_FROM_GUEST, MAX_TO_GUEST},
    mux::{Mux, ReadNext},
    network::Connections,
    protocol::{FromGuest, ToGuest},
};
use agentd_core::IsolationError;
use agentd_egress::guest::{GuestAttempt, GuestPort};
use agentd_isolation::exec::transport::LossError;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};
use tokio::sync::mpsc;

/// The number of events of one exec or operation that may be queued. The guest sends one answer to each.
const MAX_EVENTS: usize = 1;

/// A connection to a guest, as shared by the execs and operations of one attachment.
pub(super) struct Session {
    pub(super) mux: Arc<Mux>,
    listeners: Mutex<HashMap<u32, mpsc::Sender<FromGuest>>>,
    next: AtomicU32,
    /// The connections to granted hosts. `None` if the sandbox has no granted hosts.
    connections: Option<Arc<Connections>>,
    /// Constructor of the error that reports the loss, set when the connection is lost.
    loss: OnceLock<LossError>,
    /// The guest has been asked to shut down.
    ending: AtomicBool,
    /// The guest has been asked to quiesce.
    quiescing: AtomicBool,
}

/// An exec or operation: its number and the events that the guest sends for it. The events end when the guest is lost.
pub(super) struct Operation {
    pub(super) session: Arc<Session>,
    pub(super) id: u32,
    events: mpsc::Receiver<FromGuest>,
}

impl Session {
    /// Creates a session. Its connections to granted hosts go to `port`.
    pub(super) fn new(port: Option<&Arc<GuestPort>>) -> Arc<Self> {
        let mux = Mux::new(MAX_TO_GUEST, MAX_FROM_GUEST);
        let connections = port.map(|port| Connections::new(port.clone(), &mux));
        Arc::new(Self {
            mux,
            connections,
            listeners: Mutex::default(),
            next: AtomicU32::new(1),
            loss: OnceLock::new(),
            ending: AtomicBool::new(false),
            quiescing: AtomicBool::new(false),
        })
    }

    fn listeners(&self) -> MutexGuard<'_, HashMap<u32, mpsc::Sender<FromGuest>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allocates the number of an operation, and registers for its events.
    pub(super) fn begin(self: &Arc<Self>) -> Result<Operation, IsolationError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, events) = mpsc::channel(MAX_EVENTS);
        let mut listeners = self.listeners();
        if self.mux.lost().is_some() {
            return Err(self.why_lost());
        }
        listeners.insert(id, sender);
        drop(listeners);
        Ok(Operation { session: self.clone(), id, events })
    }

    /// Queues a request. Never blocks.
    pub(super) fn request(&self, request: &ToGuest) -> Result<(), IsolationError> {
        self.mux.send(request).map_err(refused)
    }

    /// Asks the guest to shut down.
    pub(super) fn shut_down(&self) -> Result<(), IsolationError> {
        self.ending.store(true, Ordering::Relaxed);
        self.request(&ToGuest::Shutdown)
    }

    /// Asks the guest to quiesce. This is the last message to the guest on this connection.
    pub(super) fn quiesce(&self) -> Result<(), IsolationError> {
        self.quiescing.store(true, Ordering::Relaxed);
        self.mux.hold(&ToGuest::Quiesce, false).map_err(refused)
    }

    /// Returns true if the guest has been asked to shut down, so that the end of the connection is expected.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Handles a message from the guest. Returns an error if the guest violates the protocol.
    pub(super) fn handle(&self, message: FromGuest) -> Result<ReadNext, String> {
        let id = match &message {
            FromGuest::Quiesced if self.quiescing.swap(false, Ordering::Relaxed) => return Ok(ReadNext::Stop),
            FromGuest::Quiesced => return Err("the guest reported an unrequested quiesce".to_owned()),
            FromGuest::Attached(_) => return Err("the guest answered the attach request twice".to_owned()),
            FromGuest::Ended { id, .. }
            | FromGuest::Failed { id, .. }
            | FromGuest::Done { id, .. }
            | FromGuest::Probed { id, .. }
            | FromGuest::Used { id, .. } => *id,
            FromGuest::Connected { .. } | FromGuest::Query { .. } | FromGuest::Attempt { .. } => {
                return self.network(message).map(|()| ReadNext::More);
            }
        };
        if id == 0 || id >= self.next.load(Ordering::Relaxed) {
            return Err(format!("the guest sent an event for operation {id}, which was never started"));
        }
        match self.listeners().get(&id).map(|listener| listener.try_send(message)) {
            Some(Err(mpsc::error::TrySendError::Full(_))) => Err(format!("the guest sent too many events for operation {id}")),
            // An operation that was dropped has no listener.
            _ => Ok(ReadNext::More),
        }
    }

    /// Handles a message about the network of the sandbox.
    fn network(&self, message: FromGuest) -> Result<(), String> {
        let connections = self.connections.as_ref().ok_or("the guest used the network, but its sandbox has no granted hosts")?;
        match message {
            FromGuest::Connected { connection, to } => connections.open(&self.mux, connection, to)?,
            FromGuest::Query { query, to, bytes } => connections.query(&self.mux, query, to, bytes),
            FromGuest::Attempt { udp, to } => connections.attempt(GuestAttempt { udp, to }),
            _ => {}
        }
        Ok(())
    }

    /// Marks the connection as lost, and ends the events of all operations. Only the first loss is kept.
    pub(super) fn lose(&self, loss: LossError, why: &str) {
        self.loss.get_or_init(|| loss);
        self.mux.lose(why);
        self.listeners().clear();
    }

    /// Returns the error that reports why the connection is lost.
    pub(super) fn why_lost(&self) -> IsolationError {
        let why = self.mux.lost().unwrap_or_else(|| "the guest's agent does not answer".to_owned());
        self.loss.get().map_or_else(|| IsolationError::MachineLost(why.clone()), |loss| loss(why.clone()))
    }
}

/// Converts the error of a request that cannot be sent.
pub(super) fn refused(error: FrameError) -> IsolationError {
    match error {
        FrameError::QueueFull | FrameError::TooMany { .. } => IsolationError::Busy(error.to_string()),
        error => {
            let reason = format!("{error} — pass fewer or shorter arguments, environment variables and grants");
            IsolationError::Invalid { what: "request to the guest".to_owned(), reason }
        }
    }
}

impl Operation {
    /// Waits for the next event of the operation; returns `None` when the guest is lost.
    pub(super) async fn next_event(&mut self) -> Option<FromGuest> {
        self.events.recv().await
    }

    /// Waits for the answer to the operation. `subject` is the path or name that an error mentions.
    pub(super) async fn answer(&mut self, subject: &str) -> Result<FromGuest, IsolationError> {
        match self.next_event().await {
            Some(FromGuest::Failed { failure, .. }) => Err(failure.into_error(subject)),
            Some(message) => Ok(message),
            None => Err(self.session.why_lost()),
        }
    }

    /// Returns the error for an answer that does not match the operation.
    pub(super) fn out_of_order() -> IsolationError {
        IsolationError::Protocol("the guest's answer does not match the request".to_owned())
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        self.session.listeners().remove(&self.id);
    }
}
