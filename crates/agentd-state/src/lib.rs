//! The store of what agentd must remember beyond one process: intents with their idempotency keys and outcomes, approvals, API
//! keys, and the use of quotas.
//!
//! A [`StateStore`] is one SQLite database in a private folder, used by any number of processes. Each request is one durable
//! transaction. A thread commits the requests that arrive together with one flush.
//!
//! - [`StateStore::begin`] answers [`Begun::New`] once for each idempotency key of a principal. Duplicates get the state or the
//!   outcome of the first intent.
//! - [`StateStore::begin_in_turn`] does the same, and lets the intent wait for a place if a limit of concurrency is reached.
//! - [`StateStore::end`] records one outcome. Intents whose process died are found by [`StateStore::recover`].
//! - [`StateStore::request_approval`] and [`StateStore::decide`] let a user decide about an intent, once.
//! - [`StateStore::add_api_key`] and [`StateStore::revoke_api_key`] change the keys by which callers are authenticated.
//!
//! The crate starts no process and makes no policy: limits and times are arguments.

mod account;
mod api_key_id;
mod api_keys;
mod approvals;
mod check;
mod configuration;
mod connection;
mod counter;
mod error;
mod folder;
mod intent_id;
mod intents;
mod owner;
mod public_key;
mod queue;
mod quota;
mod recovery;
mod reservation;
mod retention;
mod row_sum;
mod schema;
mod store;
mod turn;
mod usage;
mod wait;
mod writer;

pub use api_key_id::{ApiKeyId, InvalidApiKeyId};
pub use api_keys::ApiKeyRecord;
pub use approvals::{Approval, ApprovalState, DecideApproval, MAX_TEXT, RequestApproval};
pub use check::StateReport;
pub use configuration::{ConfigurationChange, ConfigurationLock};
pub use error::StateError;
pub use intent_id::{IdempotencyKey, IntentId, InvalidIntentId, InvalidKey};
pub use intents::{BeginIntent, Begun, EndIntent, Ending, IntentState, MAX_OUTCOME};
pub use public_key::{InvalidPublicKey, PublicKey};
pub use queue::Queueing;
pub use quota::{Quota, QuotaExceeded, QuotaLimit, QuotaRefusal, Rate, SharedQuota};
pub use recovery::Orphan;
pub use retention::Retention;
pub use store::StateStore;
pub use turn::Priority;
pub use usage::{AccountName, AccountUse};
