//! Verifies API keys, and the tokens that were made from them.

use super::{
    api_key::ApiKey,
    failures::{Failures, MAX_FAILURES},
    token::{Caveats, Token, is_token},
};
use agentd_log::LogFailure as _;
use agentd_records::{ContentDigest, Timestamp};
use agentd_state::{ApiKeyId, ApiKeyRecord, StateError, StateStore};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use subtle::ConstantTimeEq as _;

/// The time between two records of the use of a key, in microseconds.
const USE_INTERVAL: u64 = 60 * 1_000_000;

/// The most keys and tokens that are remembered as valid. When there are more, all are forgotten.
const MAX_REMEMBERED: usize = 4096;

/// The store of the keys, opened twice. A read of the engine's own store would wait for the disk with the transactions of
/// intents, and reads that strangers cause would delay these transactions.
#[derive(Debug)]
pub struct KeyStores {
    /// Finds keys. Nothing else uses it.
    pub keys: StateStore,
    /// Records their use.
    pub uses: StateStore,
}

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

/// A credential, in its form.
enum Presented {
    Key(ApiKey),
    Token(Token),
}

impl Presented {
    fn parse(text: &str) -> Result<Self, &'static str> {
        match is_token(text) {
            true => Token::parse(text).map(Self::Token),
            false => ApiKey::parse(text).map(Self::Key).map_err(|_| "malformed"),
        }
    }

    fn id(&self) -> ApiKeyId {
        match self {
            Self::Key(key) => key.id(),
            Self::Token(token) => token.id(),
        }
    }

    /// Compares the credential with the record of its key. Returns the restrictions of a token.
    fn compared(&self, record: Option<&ApiKeyRecord>) -> Result<Vec<Caveats>, &'static str> {
        match self {
            Self::Key(key) => {
                // Also compares if there is no such key.
                let expected = record.map_or(ContentDigest::of(b""), |record| record.digest);
                let is_equal = bool::from(expected.bytes()[..].ct_eq(&key.digest().bytes()[..]));
                if is_equal { Ok(Vec::new()) } else { Err("unknown, or its secret is wrong") }
            }
            Self::Token(token) => token.verify(&record.ok_or("a token of an unknown key")?.public_key),
        }
    }
}

/// Verifies API keys by the store.
#[derive(Debug)]
pub(super) struct ApiKeys {
    state: KeyStores,
    failures: Failures,
    /// The digests of keys and tokens that were valid at their last use, with the time at which that use was recorded. Such a one
    /// is examined even if others at its address fail, so that nobody can keep its holder out.
    remembered: Mutex<BTreeMap<ContentDigest, Timestamp>>,
}

impl ApiKeys {
    pub fn new(state: KeyStores) -> Self {
        Self { state, failures: Failures::default(), remembered: Mutex::default() }
    }

    /// Returns the time for which credentials of an address are refused, because too many were not valid.
    pub fn wait(&self, address: Option<IpAddr>) -> Option<Duration> {
        self.failures.wait(address, Instant::now())
    }

    /// Returns the record of a valid key, and the restrictions of a token that was made from it.
    ///
    /// # Errors
    /// [`KeyFailure`].
    pub async fn verify(&self, text: &str, address: Option<IpAddr>) -> Result<(ApiKeyRecord, Vec<Caveats>), KeyFailure> {
        let presented = Presented::parse(text);
        let (digest, now) = (ContentDigest::of(text.as_bytes()), Timestamp::now());
        if !self.lock().contains_key(&digest)
            && let Some(wait) = self.wait(address)
        {
            return Err(KeyFailure::TooMany(wait));
        }
        let presented = presented.map_err(|problem| self.failed(address, problem, None))?;
        let found = self.state.keys.api_key(presented.id()).await.map_err(KeyFailure::State)?;
        let failed = |problem| {
            self.lock().remove(&digest);
            self.failed(address, problem, Some(presented.id()))
        };
        let caveats = presented.compared(found.as_ref()).map_err(failed)?;
        match found {
            Some(record) if record.is_valid(now) && !caveats.iter().any(|block| block.is_expired(now)) => {
                self.used(&record, digest, now);
                Ok((record, caveats))
            }
            Some(record) if record.revoked.is_some() => Err(failed("revoked")),
            _ => Err(failed("expired")),
        }
    }

    /// Counts and logs a failure. The text never contains a part of the credential, except the identifier of a key.
    pub fn failed(&self, address: Option<IpAddr>, problem: &str, key: Option<ApiKeyId>) -> KeyFailure {
        let count = self.failures.count(address, Instant::now());
        let address = address.map_or_else(|| "the Unix socket".to_owned(), |address| address.to_string());
        let key = key.map(|key| key.to_string()).unwrap_or_default();
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

    /// Remembers a credential as valid, and records its use from time to time, without delaying the request.
    fn used(&self, record: &ApiKeyRecord, digest: ContentDigest, now: Timestamp) {
        let is_due =
            |last: Option<&Timestamp>| last.is_none_or(|last| now.micros() >= last.micros().saturating_add(USE_INTERVAL));
        let mut remembered = self.lock();
        if !is_due(remembered.get(&digest)) {
            return;
        }
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(digest, now);
        drop(remembered);
        let (state, id) = (self.state.uses.clone(), record.id);
        tokio::spawn(async move { state.api_key_used(id, now).await.or_warn("record the use of an API key", id) });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ContentDigest, Timestamp>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
