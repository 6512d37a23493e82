//! The open store: each request is executed by the store's thread.

use crate::{
    approvals::{self, Approval, DecideApproval, RequestApproval},
    check::{self, StateReport},
    connection::{self, Opened},
    error::StateError,
    folder::{self, StateFolder},
    intent_id::IntentId,
    intents::{self, BeginIntent, Begun, EndIntent, IntentState},
    owner::Owners,
    queue::{self, Attempt, Queueing},
    recovery::{self, Orphan},
    retention::Retention,
    writer::{Job, StateThread, job},
};
use agentd_log::LogFailure as _;
use agentd_records::Timestamp;
use rusqlite::Connection;
use std::{path::Path, sync::Arc, thread::JoinHandle};
use tokio::sync::{broadcast, mpsc, oneshot};

/// The changes that a waiting request may be behind. One that is further behind reads the store again.
const CHANGES: usize = 256;

/// The store, opened by this process. Clones use the same connection. Any number of processes may open a store.
///
/// Intents that this store has begun and not ended become orphans when the last clone is dropped, or when the process dies.
#[derive(Debug, Clone)]
pub struct StateStore(Arc<OpenState>);

/// The values that the store's thread needs for a request. The thread must not own [`OpenState`], whose drop waits for the
/// thread.
#[derive(Debug)]
struct Context {
    owners: Owners,
    owner: String,
    retention: Retention,
    folder: StateFolder,
}

#[derive(Debug)]
struct OpenState {
    context: Arc<Context>,
    /// Intents that ended, or whose approval was decided, in this process.
    changes: broadcast::Sender<IntentId>,
    /// Requests that wait for the thread. Each caller waits for its answer, so their number is that of the callers. `None` only
    /// while the store is being dropped.
    queue: Option<mpsc::UnboundedSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// Waits until all requests are executed, and releases the lock of the owner.
impl Drop for OpenState {
    fn drop(&mut self) {
        drop(self.queue.take());
        // After a panic of the thread, which has printed the cause, every caller has got an error.
        if let Some(thread) = self.thread.take() {
            thread.join().or_unreceived("end of the store's thread");
        }
    }
}

impl StateStore {
    /// Opens the store in a folder, and creates it if necessary. Blocks for a short time.
    ///
    /// # Errors
    /// [`StateError`], for example if another user may access the folder, if the store is damaged, if acknowledged transactions
    /// are missing, or if a newer version of agentd has written it.
    pub fn open(path: &Path, retention: Retention) -> Result<Self, StateError> {
        let folder = StateFolder::prepare(path)?;
        let opened = connection::open(&folder, retention)?;
        Self::start(&folder, opened, retention)
    }

    /// Opens the store in a folder; returns `None` if there is none. Creates no store.
    ///
    /// # Errors
    /// As for [`StateStore::open`].
    pub fn open_existing(path: &Path, retention: Retention) -> Result<Option<Self>, StateError> {
        if folder::is_present(path) { Self::open(path, retention).map(Some) } else { Ok(None) }
    }

    fn start(folder: &StateFolder, opened: Opened, retention: Retention) -> Result<Self, StateError> {
        let (queue, waiting) = mpsc::unbounded_channel();
        let owner = opened.owner.id().to_owned();
        let thread = StateThread::new(opened);
        let thread = std::thread::Builder::new().name("state".to_owned()).spawn(move || thread.run(waiting));
        let thread = thread.map_err(|error| StateError::Unwritten(format!("start a thread: {error}")))?;
        let context = Arc::new(Context { owners: Owners::of(folder), owner, retention, folder: folder.clone() });
        let (changes, _) = broadcast::channel(CHANGES);
        Ok(Self(Arc::new(OpenState { context, changes, queue: Some(queue), thread: Some(thread) })))
    }

    /// Records an intent and reserves its quota, unless it is a duplicate. When this function returns [`Begun::New`], the intent
    /// is durable. If the caller stops waiting before, the intent is removed again: nothing was executed, and its key is free.
    ///
    /// # Errors
    /// [`StateError`]. The intent is removed again if it was recorded.
    pub async fn begin(&self, request: BeginIntent) -> Result<Begun, StateError> {
        let (id, context) = (IntentId::random()?, self.0.context.clone());
        let unanswered = self.unanswered(id);
        let begun =
            self.write(move |connection| intents::begin(connection, (&context.owner, &context.owners), id, &request)).await?;
        unanswered.answered();
        Ok(begun)
    }

    /// Tries to begin the intent `id`, or records that it waits.
    ///
    /// # Errors
    /// [`StateError`].
    pub(crate) async fn attempt(
        &self,
        id: IntentId,
        request: BeginIntent,
        (queueing, last): (Queueing, bool),
    ) -> Result<Attempt, StateError> {
        let context = self.0.context.clone();
        let work = move |connection: &Connection| {
            queue::attempt(connection, (&context.owner, &context.owners), id, (&request, queueing, last))
        };
        self.write(work).await
    }

    /// Returns the guard of a begin that has no answer yet.
    pub(crate) fn unanswered(&self, id: IntentId) -> Unanswered<'_> {
        Unanswered { store: self, id: Some(id) }
    }

    /// Returns the folder.
    pub(crate) fn folder(&self) -> &StateFolder {
        &self.0.context.folder
    }

    /// Returns the answer to a duplicate without recording anything; `None` if the principal has not used the key.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn duplicate(&self, request: BeginIntent) -> Result<Option<Begun>, StateError> {
        self.read(move |connection| intents::duplicate(connection, &request)).await
    }

    /// Ends an intent that this store began or recovered, once. When this function returns, the outcome is durable.
    ///
    /// # Errors
    /// [`StateError::NotInFlight`] if the intent has ended before or another process executes the intent, and other errors of
    /// [`StateError`].
    pub async fn end(&self, end: EndIntent) -> Result<(), StateError> {
        let (id, context) = (end.id, self.0.context.clone());
        self.write(move |connection| intents::end(connection, &context.owner, context.retention, &end)).await?;
        self.announce(id);
        Ok(())
    }

    /// Gives up an intent that this store began or recovered, and that nobody executes any longer. The intent holds no place any
    /// more, and the next recovery finds it. Does not wait for the disk.
    pub fn abandon(&self, id: IntentId) {
        let context = self.0.context.clone();
        let abandoned = self.submit(true, move |connection| intents::abandon(connection, &context.owner, id));
        // Without a thread, the intent is an orphan once this process has ended.
        abandoned.or_debug("abandon an intent", id);
    }

    /// Returns the state of an intent.
    ///
    /// # Errors
    /// [`StateError::UnknownIntent`] and other errors of [`StateError`].
    pub async fn intent(&self, id: IntentId) -> Result<IntentState, StateError> {
        let context = self.0.context.clone();
        self.read(move |connection| intents::state(connection, &context.owners, id)).await
    }

    /// Takes over the intents whose process died, and returns them. The caller ends each of them: with the real outcome if the
    /// command still runs, and otherwise as [`Ending::Interrupted`](crate::Ending::Interrupted). If the caller dies before,
    /// another recovery finds them. Call this at the start, and when an intent is [`IntentState::Orphaned`]. Do not stop waiting
    /// for the answer: what was taken over would stay in flight until this store is closed.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn recover(&self) -> Result<Vec<Orphan>, StateError> {
        let context = self.0.context.clone();
        let work = move |connection: &Connection| recovery::take_over(connection, (&context.owner, &context.owners));
        let (orphans, dead) = self.write(work).await?;
        dead.iter().for_each(|owner| self.0.context.owners.remove(owner));
        Ok(orphans)
    }

    /// Records that an intent waits for an approval.
    ///
    /// # Errors
    /// [`StateError::ApprovalExists`] and other errors of [`StateError`].
    pub async fn request_approval(&self, request: RequestApproval) -> Result<Approval, StateError> {
        self.write(move |connection| approvals::request(connection, &request)).await
    }

    /// Approves or denies an intent, once. When this function returns, the decision is durable.
    ///
    /// # Errors
    /// [`StateError::NoApproval`], [`StateError::Decided`], [`StateError::Expired`], and [`StateError::NotInFlight`] if the
    /// intent has ended.
    pub async fn decide(&self, decision: DecideApproval) -> Result<Approval, StateError> {
        let id = decision.intent;
        let approval = self.write(move |connection| approvals::decide(connection, &decision)).await?;
        self.announce(id);
        Ok(approval)
    }

    /// Returns the approval of an intent.
    ///
    /// # Errors
    /// [`StateError::NoApproval`] and other errors of [`StateError`].
    pub async fn approval(&self, intent: IntentId, now: Timestamp) -> Result<Approval, StateError> {
        self.read(move |connection| approvals::find(connection, intent, now)).await
    }

    /// Returns the approvals that wait for a decision, the oldest first.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn pending_approvals(&self, now: Timestamp) -> Result<Vec<Approval>, StateError> {
        self.read(move |connection| approvals::pending(connection, now)).await
    }

    /// Examines every page, index and row of the store. Other requests of this process wait meanwhile.
    ///
    /// # Errors
    /// [`StateError`] if the store cannot be read at all. Other damage is in the report.
    pub async fn check(&self) -> Result<StateReport, StateError> {
        let context = self.0.context.clone();
        self.read(move |connection| check::examine(connection, &context.owners)).await
    }

    /// Returns a receiver of the intents that end, or whose approval is decided, in this process.
    pub(crate) fn changes(&self) -> broadcast::Receiver<IntentId> {
        self.0.changes.subscribe()
    }

    fn announce(&self, id: IntentId) {
        // Without a request that waits, there is no receiver.
        self.0.changes.send(id).ok();
    }

    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        self.execute(true, work).await
    }

    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        self.execute(false, work).await
    }

    async fn execute<T: Send + 'static>(
        &self,
        writes: bool,
        work: impl FnOnce(&Connection) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        self.submit(writes, work)?.await.unwrap_or_else(|_| Err(StateError::ended()))
    }

    fn submit<T: Send + 'static>(
        &self,
        writes: bool,
        work: impl FnOnce(&Connection) -> Result<T, StateError> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, StateError>>, StateError> {
        let (job, result) = job(writes, work);
        self.0.queue.as_ref().ok_or_else(StateError::ended)?.send(job).map_err(|_| StateError::ended())?;
        Ok(result)
    }
}

/// A begin without an answer. Dropping the value removes the intent, after its begin was executed.
pub(crate) struct Unanswered<'s> {
    store: &'s StateStore,
    id: Option<IntentId>,
}

impl Unanswered<'_> {
    pub fn answered(mut self) {
        self.id = None;
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let context = self.store.0.context.clone();
        let removed = self.store.submit(true, move |connection| {
            queue::remove(connection, id)?;
            intents::remove(connection, &context.owner, id)
        });
        // Without a thread, nothing is recorded any more.
        removed.or_debug("remove an intent without an answer", id);
    }
}
