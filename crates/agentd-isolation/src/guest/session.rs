//! The host's side of a connection: requests out, news in. What comes from a guest is untrusted.

use super::{
    frame::{FrameError, MAX_FROM_GUEST, MAX_TO_GUEST},
    mux::{Mux, Next},
    protocol::{FromGuest, ToGuest},
};
use agentd_core::IsolationError;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};
use tokio::sync::mpsc;

/// How much news of one exec or operation may wait to be heard: there is one answer to each.
const NEWS: usize = 1;

/// A guest as it is known to the execs and operations of one attachment.
pub(super) struct Session {
    pub(super) mux: Arc<Mux>,
    listeners: Mutex<HashMap<u32, mpsc::Sender<FromGuest>>>,
    next: AtomicU32,
    /// The guest has been asked to end.
    ending: AtomicBool,
    /// The guest has been asked to come to rest.
    resting: AtomicBool,
}

/// An exec or operation: its number, and what the guest says of it, which ends when the guest is lost.
pub(super) struct Operation {
    pub(super) session: Arc<Session>,
    pub(super) id: u32,
    news: mpsc::Receiver<FromGuest>,
}

impl Session {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            mux: Mux::new(MAX_TO_GUEST, MAX_FROM_GUEST),
            listeners: Mutex::default(),
            next: AtomicU32::new(1),
            ending: AtomicBool::new(false),
            resting: AtomicBool::new(false),
        })
    }

    fn listeners(&self) -> MutexGuard<'_, HashMap<u32, mpsc::Sender<FromGuest>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an operation.
    pub(super) fn begin(self: &Arc<Self>) -> Result<Operation, IsolationError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, news) = mpsc::channel(NEWS);
        let mut listeners = self.listeners();
        if self.mux.lost().is_some() {
            return Err(self.why_lost());
        }
        listeners.insert(id, sender);
        drop(listeners);
        Ok(Operation { session: self.clone(), id, news })
    }

    /// Sends a request. It never waits.
    pub(super) fn request(&self, request: &ToGuest) -> Result<(), IsolationError> {
        self.mux.say(request).map_err(refused)
    }

    /// Asks the guest to end.
    pub(super) fn shut_down(&self) -> Result<(), IsolationError> {
        self.ending.store(true, Ordering::Relaxed);
        self.request(&ToGuest::Shutdown)
    }

    /// Asks the guest to come to rest: this is the last that it is told on this connection.
    pub(super) fn rest(&self) -> Result<(), IsolationError> {
        self.resting.store(true, Ordering::Relaxed);
        self.mux.hold(&ToGuest::Quiesce, false).map_err(refused)
    }

    /// Whether the end of the connection is what was asked for.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// What a guest says.
    pub(super) fn hear(&self, said: FromGuest) -> Result<Next, String> {
        let id = match &said {
            FromGuest::Quiesced if self.resting.swap(false, Ordering::Relaxed) => return Ok(Next::Stop),
            FromGuest::Quiesced => return Err("it came to rest unasked".to_owned()),
            FromGuest::Attached(_) => return Err("it attached a second time".to_owned()),
            FromGuest::Ended { id, .. }
            | FromGuest::Failed { id, .. }
            | FromGuest::Done { id, .. }
            | FromGuest::Probed { id, .. }
            | FromGuest::Used { id, .. } => *id,
        };
        if id == 0 || id >= self.next.load(Ordering::Relaxed) {
            return Err(format!("news of {id}, which was never asked for"));
        }
        match self.listeners().get(&id).map(|listener| listener.try_send(said)) {
            Some(Err(mpsc::error::TrySendError::Full(_))) => Err(format!("more news of {id} than there can be")),
            // One that nobody waits for has no listener.
            _ => Ok(Next::More),
        }
    }

    /// Tells everybody that there is no more news, and why.
    pub(super) fn lose(&self, why: &str) {
        self.mux.lose(why);
        self.listeners().clear();
    }

    /// Why there is no more news.
    pub(super) fn why_lost(&self) -> IsolationError {
        IsolationError::Lost(self.mux.lost().unwrap_or_else(|| "guest".to_owned()))
    }
}

/// What a request that cannot be sent comes to.
pub(super) fn refused(error: FrameError) -> IsolationError {
    IsolationError::Invalid { what: "request to the guest".to_owned(), reason: error.to_string() }
}

impl Operation {
    /// Waits for what the guest says of it; `None` when that is lost.
    pub(super) async fn news(&mut self) -> Option<FromGuest> {
        self.news.recv().await
    }

    /// Waits for its answer. `subject` is the path that it is about.
    pub(super) async fn answer(&mut self, subject: &str) -> Result<FromGuest, IsolationError> {
        match self.news().await {
            Some(FromGuest::Failed { failure, .. }) => Err(failure.into_error(subject)),
            Some(said) => Ok(said),
            None => Err(self.session.why_lost()),
        }
    }

    /// What an answer is that belongs to no such operation.
    pub(super) fn out_of_order() -> IsolationError {
        IsolationError::Protocol("the guest's answer is one to something else".to_owned())
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        self.session.listeners().remove(&self.id);
    }
}
