//! Begins and ends intents, and answers duplicates.

use crate::{
    error::StateError,
    intent_id::{IdempotencyKey, IntentId},
    owner::Owners,
    quota::{Quota, QuotaRefusal, SharedQuota, micros, stored},
    reservation::{self, ReservedAccounts},
    retention::{self, Retention},
};
use agentd_records::{ContentDigest, Label, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, Row, params, types::Type};
use std::time::Duration;

/// The longest outcome in bytes.
pub const MAX_OUTCOME: usize = 1 << 20;

/// A request to execute an intent.
#[derive(Debug, Clone)]
pub struct BeginIntent {
    /// The user or service that requests.
    pub principal: Label,
    /// The key by which the caller repeats the request; `None` for a request that is never a duplicate.
    pub key: Option<IdempotencyKey>,
    /// The digest of the whole intent.
    pub digest: ContentDigest,
    /// The limits of the principal.
    pub quota: Quota,
    /// The limits that the principal shares with others. No account may occur twice.
    pub shared: Vec<SharedQuota>,
    /// The processor time that the intent may use, at most a year. It counts as used until the intent ends.
    pub cpu: Duration,
    /// The current time.
    pub now: Timestamp,
}

/// The answer to [`BeginIntent`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// The caller must execute the intent, and end it with [`EndIntent`], even after the client has disconnected. No other caller
    /// gets this answer for this intent.
    New(IntentId),
    /// The principal has used the key for another intent.
    Conflict(IntentId),
    /// The intent is a duplicate of one that has begun and not ended. See `StateStore::wait`.
    InFlight(IntentId),
    /// The intent is a duplicate of one that was executed.
    Finished {
        /// The identifier of the first intent.
        id: IntentId,
        /// The recorded outcome.
        outcome: Vec<u8>,
    },
    /// The intent is a duplicate of one that a crash interrupted. It is never executed again.
    Interrupted {
        /// The identifier of the first intent.
        id: IntentId,
        /// The recorded outcome.
        outcome: Vec<u8>,
    },
    /// The intent would exceed a quota. Nothing was recorded.
    Refused(QuotaRefusal),
}

/// How an intent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The intent was executed, and its outcome is known.
    Finished,
    /// The process of the intent died. It is unknown how much of the intent was executed.
    Interrupted,
}

/// The end of an intent.
#[derive(Debug, Clone)]
pub struct EndIntent {
    /// The intent.
    pub id: IntentId,
    /// How the intent ended.
    pub ending: Ending,
    /// The outcome that duplicates get, in a form that the caller chooses; at most [`MAX_OUTCOME`] bytes.
    pub outcome: Vec<u8>,
    /// The processor time that was used; `None` if unknown, which charges the whole reservation.
    pub cpu: Option<Duration>,
    /// The current time.
    pub now: Timestamp,
}

/// The state of an intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IntentState {
    /// The intent has not ended, and its owner lives.
    InFlight,
    /// The intent has not ended, and its owner is dead. See `StateStore::recover`.
    Orphaned,
    /// The intent was executed, with this outcome.
    Finished(Vec<u8>),
    /// A crash interrupted the intent, with this outcome.
    Interrupted(Vec<u8>),
}

/// A row of the table `intents`.
struct IntentRow {
    id: IntentId,
    digest: String,
    state: String,
    owner: Option<String>,
    outcome: Vec<u8>,
}

const SELECT: &str = "SELECT id, digest, state, owner, outcome,
    sum IS row_sum(number, id, principal, key, digest, state, owner, begun, ended, cpu_reserved, outcome) FROM intents";

/// Returns the identifier in a column.
pub(crate) fn id_at(row: &Row<'_>, column: usize) -> rusqlite::Result<IntentId> {
    let text: String = row.get(column)?;
    text.parse().map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

impl IntentRow {
    fn find(connection: &Connection, condition: &str, values: impl rusqlite::Params) -> Result<Option<Self>, StateError> {
        let mut select = connection.prepare_cached(&format!("{SELECT} WHERE {condition}"))?;
        let row = select.query_one(values, |row| {
            let outcome = row.get::<_, Option<_>>(4)?.unwrap_or_default();
            let found = Self { id: id_at(row, 0)?, digest: row.get(1)?, state: row.get(2)?, owner: row.get(3)?, outcome };
            Ok((found, row.get(5)?))
        });
        match row.optional()? {
            Some((row, false)) => Err(StateError::Damaged(format!("the intent {} does not match its checksum", row.id))),
            found => Ok(found.map(|(row, _)| row)),
        }
    }

    fn state(self, owners: &Owners) -> Result<IntentState, StateError> {
        Ok(match (self.state.as_str(), self.owner) {
            ("finished", _) => IntentState::Finished(self.outcome),
            ("interrupted", _) => IntentState::Interrupted(self.outcome),
            (_, Some(owner)) if owners.is_alive(&owner)? => IntentState::InFlight,
            _ => IntentState::Orphaned,
        })
    }

    fn answer(self, digest: ContentDigest) -> Begun {
        let id = self.id;
        match self.state.as_str() {
            _ if self.digest != digest.to_string() => Begun::Conflict(id),
            "finished" => Begun::Finished { id, outcome: self.outcome },
            "interrupted" => Begun::Interrupted { id, outcome: self.outcome },
            _ => Begun::InFlight(id),
        }
    }
}

/// Returns the answer to a duplicate; `None` if the principal has not used the key.
///
/// # Errors
/// [`StateError`].
pub(crate) fn duplicate(connection: &Connection, request: &BeginIntent) -> Result<Option<Begun>, StateError> {
    let Some(key) = &request.key else { return Ok(None) };
    let values = [request.principal.to_string(), key.digest().to_string()];
    let found = IntentRow::find(connection, "principal = ?1 AND key = ?2", values)?;
    Ok(found.map(|row| row.answer(request.digest)))
}

/// Records an intent `id` of `owner`, unless it is a duplicate or exceeds a quota.
///
/// # Errors
/// [`StateError`].
pub(crate) fn begin(
    connection: &Connection,
    (owner, owners): (&str, &Owners),
    id: IntentId,
    request: &BeginIntent,
) -> Result<Begun, StateError> {
    if let Some(answer) = duplicate(connection, request)? {
        return Ok(answer);
    }
    match reservation::reserve(connection, owners, request)? {
        Ok(accounts) => insert(connection, owner, id, (request, &accounts)),
        Err(refusing) => Ok(Begun::Refused(refusing.refusal(0))),
    }
}

/// Records an intent that is no duplicate, and whose accounts allow it.
///
/// # Errors
/// [`StateError`].
pub(crate) fn insert(
    connection: &Connection,
    owner: &str,
    id: IntentId,
    (request, accounts): (&BeginIntent, &ReservedAccounts<'_>),
) -> Result<Begun, StateError> {
    let BeginIntent { principal, key, digest, now, .. } = request;
    let mut insert = connection.prepare_cached(
        "INSERT INTO intents (id, principal, key, digest, state, owner, begun, cpu_reserved)
         VALUES (?1, ?2, ?3, ?4, 'in-flight', ?5, ?6, ?7)",
    )?;
    let key = key.as_ref().map(|key| key.digest().to_string());
    let (begun, cpu) = (stored(*now), reservation::reservation(request));
    insert.execute(params![id.to_string(), principal.to_string(), key, digest.to_string(), owner, begun, cpu])?;
    accounts.write(connection, id, request)?;
    Ok(Begun::New(id))
}

/// The owner of intents that nobody executes any longer. No open store has this identifier, so the owner counts as dead.
const NOBODY: &str = "abandoned";

/// Gives up an intent of `owner` that has not ended. It is an orphan from now on.
///
/// # Errors
/// [`StateError`].
pub(crate) fn abandon(connection: &Connection, owner: &str, id: IntentId) -> Result<(), StateError> {
    let mut update = connection.prepare_cached("UPDATE intents SET owner = ?3 WHERE id = ?1 AND owner = ?2")?;
    update.execute(params![id.to_string(), owner, NOBODY])?;
    Ok(())
}

/// Removes an intent of `owner` that was never executed.
///
/// # Errors
/// [`StateError`].
pub(crate) fn remove(connection: &Connection, owner: &str, id: IntentId) -> Result<(), StateError> {
    let mut delete = connection.prepare_cached("DELETE FROM intents WHERE id = ?1 AND owner = ?2")?;
    delete.execute(params![id.to_string(), owner])?;
    Ok(())
}

/// Ends an intent of `owner`, charges its processor time, and removes outcomes that are no longer kept.
///
/// # Errors
/// [`StateError::NotInFlight`], [`StateError::UnknownIntent`] and [`StateError::OutcomeTooLong`].
pub(crate) fn end(connection: &Connection, owner: &str, retention: Retention, end: &EndIntent) -> Result<(), StateError> {
    let EndIntent { id, ending, outcome, cpu, now } = end;
    if outcome.len() > MAX_OUTCOME {
        return Err(StateError::OutcomeTooLong { length: outcome.len(), limit: MAX_OUTCOME });
    }
    let state = match ending {
        Ending::Finished => "finished",
        Ending::Interrupted => "interrupted",
    };
    let row = IntentRow::find(connection, "id = ?1", [id.to_string()])?.ok_or(StateError::UnknownIntent(*id))?;
    if row.owner.as_deref() != Some(owner) {
        return Err(StateError::NotInFlight(*id));
    }
    let mut update = connection.prepare_cached(
        "UPDATE intents SET state = ?2, owner = NULL, ended = max(begun, ?3), outcome = ?4 WHERE id = ?1
         RETURNING principal, cpu_reserved",
    )?;
    let values = params![id.to_string(), state, stored(*now), outcome];
    let (principal, reserved): (String, i64) = update.query_one(values, |row| Ok((row.get(0)?, row.get(1)?)))?;
    let principal = Label::try_from(principal).map_err(|error| StateError::Damaged(error.to_string()))?;
    reservation::settle(connection, (*id, &principal), cpu.map_or(reserved, micros), *now)?;
    retention::remove_exceeding(connection, retention, &principal, *now)
}

/// Returns the state of an intent.
///
/// # Errors
/// [`StateError::UnknownIntent`].
pub(crate) fn state(connection: &Connection, owners: &Owners, id: IntentId) -> Result<IntentState, StateError> {
    IntentRow::find(connection, "id = ?1", [id.to_string()])?.ok_or(StateError::UnknownIntent(id))?.state(owners)
}
