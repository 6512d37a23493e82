//! Calls that wait for an approval while no request of the client waits for them.

use super::running::RunningCall;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// The calls that are parked for one principal, and for all.
const MAX_OF_OWNER: usize = 16;
const MAX_OF_ALL: usize = 256;

/// How long a call is parked. An approval expires earlier; the rest is for the command.
const LIFETIME: Duration = Duration::from_secs(60 * 60);

/// Calls that wait, by the handles that clients have got.
#[derive(Debug, Default)]
pub(super) struct ParkedCalls(Mutex<HashMap<String, ParkedCall>>);

/// A call that waits.
#[derive(Debug)]
pub(super) struct ParkedCall {
    /// The principal who made the call.
    pub owner: String,
    /// The call.
    pub call: RunningCall,
}

impl ParkedCalls {
    /// Parks a call under a handle. If there are too many, the call is cancelled, and the result is false.
    pub fn park(self: &Arc<Self>, handle: String, parked: ParkedCall) -> bool {
        {
            let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let of_owner = calls.values().filter(|other| other.owner == parked.owner).count();
            if of_owner >= MAX_OF_OWNER || calls.len() >= MAX_OF_ALL {
                return false;
            }
            calls.insert(handle.clone(), parked);
        }
        let calls = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(LIFETIME).await;
            if let Some(calls) = calls.upgrade() {
                calls.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&handle);
            }
        });
        true
    }

    /// Takes a call, unless it belongs to another principal.
    pub fn take(&self, owner: &str, handle: &str) -> Option<ParkedCall> {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.get(handle)?.owner != owner {
            return None;
        }
        calls.remove(handle)
    }
}
