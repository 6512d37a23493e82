//! Waits for the end of an intent, for a place, or for the decision about an approval. Other processes are noticed by reading the
//! store again.

use crate::{
    approvals::{Approval, ApprovalState},
    error::StateError,
    intent_id::IntentId,
    intents::{BeginIntent, Begun, IntentState},
    queue::{Attempt, Queueing},
    store::StateStore,
};
use agentd_records::Timestamp;
use std::time::Duration;
use tokio::{
    sync::broadcast::Receiver,
    time::{Instant, timeout_at},
};

/// The first and the longest pause between two readings of the store.
const PAUSES: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(200)];

impl StateStore {
    /// Waits until an intent has ended or is an orphan. After `timeout`, returns [`IntentState::InFlight`]. Needs a runtime of
    /// tokio with timers.
    ///
    /// # Errors
    /// [`StateError::UnknownIntent`] if the intent was removed: its requester did not wait for the begin, or it is no longer
    /// kept. A request with its key then begins a new intent. Other errors of [`StateError`].
    pub async fn wait(&self, id: IntentId, timeout: Duration) -> Result<IntentState, StateError> {
        let mut waiting = IntentWatch::new(self, id, timeout);
        loop {
            let state = self.intent(id).await?;
            if state != IntentState::InFlight || !waiting.pause().await {
                return Ok(state);
            }
        }
    }

    /// Waits until an approval was decided or has expired. After `timeout`, returns a pending approval. Needs a runtime of tokio
    /// with timers.
    ///
    /// # Errors
    /// [`StateError::NoApproval`] and other errors of [`StateError`].
    pub async fn wait_for_decision(&self, intent: IntentId, timeout: Duration) -> Result<Approval, StateError> {
        let mut waiting = IntentWatch::new(self, intent, timeout);
        loop {
            let approval = self.approval(intent, Timestamp::now()).await?;
            if approval.state != ApprovalState::Pending || !waiting.pause().await {
                return Ok(approval);
            }
        }
    }
}

impl StateStore {
    /// Records an intent as [`StateStore::begin`] does. If a limit of concurrency is reached, or others wait for the same place,
    /// the intent waits for its turn. The wait is over after `queueing.wait`: the intent is then refused. If the caller stops
    /// waiting, the intent loses its turn. The time of the request is the time of each attempt. Needs a runtime of tokio with
    /// timers.
    ///
    /// # Errors
    /// As for [`StateStore::begin`].
    pub async fn begin_in_turn(&self, request: BeginIntent, queueing: Queueing) -> Result<Begun, StateError> {
        let id = IntentId::random()?;
        let unanswered = self.unanswered(id);
        let mut waiting = IntentWatch::of_any(self, queueing.wait);
        let mut last = false;
        loop {
            let request = BeginIntent { now: Timestamp::now(), ..request.clone() };
            if let Attempt::Answered(begun) = self.attempt(id, request, (queueing, last)).await? {
                unanswered.answered();
                return Ok(begun);
            }
            last = !waiting.pause().await;
        }
    }
}

/// A request that waits for a change of an intent.
struct IntentWatch {
    /// The intent; `None` for all intents.
    id: Option<IntentId>,
    changes: Receiver<IntentId>,
    deadline: Option<Instant>,
    pause: Duration,
}

impl IntentWatch {
    /// Changes from now on are received, so none is missed between the first reading and the first pause.
    fn new(store: &StateStore, id: IntentId, timeout: Duration) -> Self {
        Self { id: Some(id), ..Self::of_any(store, timeout) }
    }

    fn of_any(store: &StateStore, timeout: Duration) -> Self {
        let [pause, _] = PAUSES;
        Self { id: None, changes: store.changes(), deadline: Instant::now().checked_add(timeout), pause }
    }

    /// Waits for a change of the intent in this process, or for the end of the pause. Returns false after the deadline.
    async fn pause(&mut self) -> bool {
        let now = Instant::now();
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return false;
        }
        let next = now + self.pause;
        let until = self.deadline.map_or(next, |deadline| deadline.min(next));
        let [_, longest] = PAUSES;
        self.pause = (self.pause * 2).min(longest);
        let changed = async {
            // An error means that changes were missed.
            while self.changes.recv().await.is_ok_and(|id| self.id.is_some_and(|own| own != id)) {}
        };
        // Both a change and the end of the pause mean that the store is read again.
        timeout_at(until, changed).await.ok();
        true
    }
}
