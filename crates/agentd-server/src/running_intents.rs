//! The intents that wait for an approval or are executed, so that their principals can cancel them.

use agentd_state::IntentId;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio_util::sync::CancellationToken;

/// The intents of one service. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct RunningIntents(Arc<Mutex<HashMap<IntentId, RunningIntent>>>);

#[derive(Debug)]
struct RunningIntent {
    /// The identifier of the principal.
    principal: String,
    cancel: CancellationToken,
}

/// An entry, which is removed when the value is dropped.
#[derive(Debug)]
pub(crate) struct RunningEntry {
    intents: RunningIntents,
    id: IntentId,
}

impl RunningIntents {
    /// Adds an intent, until the returned value is dropped.
    pub(crate) fn enter(&self, id: IntentId, principal: String, cancel: CancellationToken) -> RunningEntry {
        self.lock().insert(id, RunningIntent { principal, cancel });
        RunningEntry { intents: self.clone(), id }
    }

    /// Cancels an intent. Returns false if this principal has no such intent.
    pub(crate) fn cancel(&self, id: IntentId, principal: &str) -> bool {
        let intents = self.lock();
        let own = intents.get(&id).filter(|intent| intent.principal == principal);
        if let Some(intent) = own {
            intent.cancel.cancel();
        }
        own.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IntentId, RunningIntent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RunningEntry {
    fn drop(&mut self) {
        self.intents.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_principal_of_a_running_intent_cancels_it() {
        let (intents, cancel) = (RunningIntents::default(), CancellationToken::new());
        let id: IntentId = "00112233445566778899aabbccddeeff".parse().unwrap();
        let entry = intents.enter(id, "user:uid:1".to_owned(), cancel.clone());
        assert!(!intents.cancel(id, "user:uid:2"));
        assert!(!cancel.is_cancelled());
        assert!(intents.cancel(id, "user:uid:1"));
        assert!(cancel.is_cancelled());
        drop(entry);
        assert!(!intents.cancel(id, "user:uid:1"));
    }
}
