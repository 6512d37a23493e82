//! Verifies API keys.

use super::{
    api_key::ApiKey,
    failures::{Failures, MAX_FAILURES},
};
use agentd_log::LogFailure as _;
use agentd_records::{ContentDigest, Timestamp};
use agentd_state::{ApiKeyRecord, StateError, StateStore};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use subtle::ConstantTimeEq as _;

/// The time between two records of the use of a key, in microseconds.
const USE_INTERVAL: u64 = 60 * 1_000_000;

/// The most keys that are remembered as valid. There are hardly more.
const MAX_REMEMBERED: usize = 4096;

/// The reason why a key is refused.
#[derive(Debug)]
pub(super) enum KeyFailure {
    /// The key is not valid. The client does not learn more.
    Invalid,
    /// The address has failed too often, and must wait.
    TooMany(Duration),
    /// The keys cannot be read.
    State(StateError),
}

/// Verifies API keys by the store.
#[derive(Debug)]
pub(super) struct ApiKeys {
    state: StateStore,
    failures: Failures,
    /// The digests of keys that were valid at their last use, with the time at which that use was recorded. Such a key is
    /// examined even if others at its address fail, so that nobody can keep its holder out.
    remembered: Mutex<BTreeMap<ContentDigest, Timestamp>>,
}

impl ApiKeys {
    pub fn new(state: StateStore) -> Self {
        Self { state, failures: Failures::default(), remembered: Mutex::default() }
    }

    /// Returns the time for which credentials of an address are refused, because too many were not valid.
    pub fn wait(&self, address: Option<IpAddr>) -> Option<Duration> {
        self.failures.wait(address, Instant::now())
    }

    /// Returns the record of a valid key.
    ///
    /// # Errors
    /// [`KeyFailure`].
    pub async fn verify(&self, text: &str, address: Option<IpAddr>) -> Result<ApiKeyRecord, KeyFailure> {
        let key = ApiKey::parse(text);
        let is_known = key.as_ref().is_ok_and(|key| self.is_remembered(key.digest()));
        if !is_known && let Some(wait) = self.wait(address) {
            return Err(KeyFailure::TooMany(wait));
        }
        let Ok(key) = key else { return Err(self.failed(address, "malformed", None)) };
        let (digest, now) = (key.digest(), Timestamp::now());
        let found = self.state.api_key(key.id()).await.map_err(KeyFailure::State)?;
        // Also compares if there is no such key.
        let expected = found.as_ref().map_or(ContentDigest::of(b""), |record| record.digest);
        let is_equal = bool::from(expected.bytes()[..].ct_eq(&digest.bytes()[..]));
        match found.filter(|_| is_equal) {
            Some(record) if record.is_valid(now) => {
                self.used(&record, now);
                Ok(record)
            }
            Some(record) => {
                self.lock().remove(&digest);
                Err(self.failed(address, if record.revoked.is_some() { "revoked" } else { "expired" }, Some(&key)))
            }
            None => Err(self.failed(address, "unknown, or its secret is wrong", Some(&key))),
        }
    }

    /// Counts and logs a failure. The text never contains a part of the credential, except the identifier of a key.
    pub fn failed(&self, address: Option<IpAddr>, problem: &str, key: Option<&ApiKey>) -> KeyFailure {
        let count = self.failures.count(address, Instant::now());
        let address = address.map_or_else(|| "the Unix socket".to_owned(), |address| address.to_string());
        let key = key.map(|key| key.id().to_string()).unwrap_or_default();
        if count < MAX_FAILURES {
            tracing::warn!(address, key, problem, "refused a credential");
        } else if count == MAX_FAILURES {
            tracing::warn!(
                address,
                key,
                problem,
                "refused a credential; the next ones of this address are not examined for a minute"
            );
        }
        KeyFailure::Invalid
    }

    fn is_remembered(&self, digest: ContentDigest) -> bool {
        self.lock().contains_key(&digest)
    }

    /// Remembers a key as valid, and records its use from time to time, without delaying the request.
    fn used(&self, record: &ApiKeyRecord, now: Timestamp) {
        let is_due =
            |last: Option<&Timestamp>| last.is_none_or(|last| now.micros() >= last.micros().saturating_add(USE_INTERVAL));
        let mut remembered = self.lock();
        if !is_due(remembered.get(&record.digest)) {
            return;
        }
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(record.digest, now);
        drop(remembered);
        let (state, id) = (self.state.clone(), record.id);
        tokio::spawn(async move { state.api_key_used(id, now).await.or_warn("record the use of an API key", id) });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ContentDigest, Timestamp>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
