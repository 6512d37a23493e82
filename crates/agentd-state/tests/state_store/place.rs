//! A folder for a store, and requests.

use agentd_records::{ContentDigest, Timestamp};
use agentd_state::{BeginIntent, Begun, EndIntent, Ending, IntentId, IntentState, Quota, Retention, StateStore};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A time long enough that only a defect lets it pass.
pub const LONG: Duration = Duration::from_secs(300);

pub struct Place {
    directory: TempDir,
    pub runtime: Runtime,
}

impl Place {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), runtime: runtime() }
    }

    pub fn folder(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn open(&self) -> StateStore {
        open(&self.folder())
    }

    pub fn begin(&self, store: &StateStore, request: BeginIntent) -> Begun {
        self.runtime.block_on(store.begin(request)).unwrap()
    }

    /// Begins an intent that is not a duplicate.
    pub fn begin_new(&self, store: &StateStore, request: BeginIntent) -> IntentId {
        new_id(self.begin(store, request))
    }

    pub fn end(&self, store: &StateStore, end: EndIntent) {
        self.runtime.block_on(store.end(end)).unwrap();
    }

    pub fn state(&self, store: &StateStore, id: IntentId) -> IntentState {
        self.runtime.block_on(store.intent(id)).unwrap()
    }

    pub fn assert_sound(&self, store: &StateStore) {
        assert_eq!(self.runtime.block_on(store.check()).unwrap().problems, [""; 0]);
    }
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// Opens a store that keeps all intents of a test.
pub fn open(folder: &Path) -> StateStore {
    StateStore::open(folder, Retention { intents: u32::MAX, bytes: u64::MAX, ..Retention::default() }).unwrap()
}

pub fn new_id(answer: Begun) -> IntentId {
    let Begun::New(id) = answer else { panic!("{answer:?}") };
    id
}

/// A request without limits.
pub fn request(principal: &str, key: Option<&str>, content: &str) -> BeginIntent {
    BeginIntent {
        principal: principal.try_into().unwrap(),
        key: key.map(|key| key.parse().unwrap()),
        digest: ContentDigest::of(content.as_bytes()),
        quota: Quota::default(),
        shared: Vec::new(),
        cpu: Duration::ZERO,
        now: Timestamp::now(),
    }
}

pub fn finished(id: IntentId, outcome: &str) -> EndIntent {
    EndIntent { id, ending: Ending::Finished, outcome: outcome.into(), cpu: None, now: Timestamp::now() }
}

pub fn interrupted(id: IntentId) -> EndIntent {
    EndIntent { ending: Ending::Interrupted, ..finished(id, "") }
}
