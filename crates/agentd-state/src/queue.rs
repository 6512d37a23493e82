//! Intents that wait for a place, because a limit of concurrency is reached. The queue is in the database, so all processes of
//! the store wait in the same order (`turn`).

use crate::{
    account,
    error::StateError,
    intent_id::IntentId,
    intents::{self, BeginIntent, Begun},
    owner::Owners,
    quota::{QuotaExceeded, QuotaLimit, QuotaRefusal, stored},
    reservation::{self, Refusing},
    turn::{Priority, Waiter},
};
use agentd_records::Label;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use std::{collections::BTreeSet, time::Duration};

/// The time after which the record of a waiting intent is written again, in microseconds.
const REFRESH: i64 = 1_000_000;

/// The time after which an intent whose record was not written again holds up nobody, in microseconds. Its process is stopped.
const STALE: i64 = 4 * REFRESH;

/// How an intent waits for a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queueing {
    /// The importance of the intent.
    pub priority: Priority,
    /// The most intents of the principal that wait at once. Further ones are refused.
    pub most: u32,
    /// The longest wait.
    pub wait: Duration,
}

/// The result of an attempt to begin an intent.
pub(crate) enum Attempt {
    /// The intent does not wait any longer.
    Answered(Begun),
    /// The intent waits.
    Waits,
}

/// The recorded state of a waiting intent.
struct WaitingRow {
    id: String,
    owner: String,
    seen: i64,
    waiter: Waiter,
}

/// Begins an intent if it is its turn and all its limits allow it. Otherwise, records that the intent waits, unless this is the
/// `last` attempt.
///
/// # Errors
/// [`StateError`].
pub(crate) fn attempt(
    connection: &Connection,
    (owner, owners): (&str, &Owners),
    id: IntentId,
    (request, queueing, last): (&BeginIntent, Queueing, bool),
) -> Result<Attempt, StateError> {
    let answered = |answer| remove(connection, id).map(|()| Attempt::Answered(answer));
    if let Some(answer) = intents::duplicate(connection, request)? {
        return answered(answer);
    }
    let own = WaitingRow::find(connection, id)?;
    let refusing = match reservation::reserve(connection, owners, request)? {
        Ok(accounts) => {
            let waiter = match &own {
                Some(row) => row.waiter.clone(),
                None => Waiter::arriving(connection, request, queueing.priority)?,
            };
            // The whole queue is read only by an intent that its limits allow to begin.
            if !must_wait(connection, owners, (id, &waiter), stored(request.now))? {
                return answered(intents::insert(connection, owner, id, (request, &accounts))?);
            }
            None
        }
        Err(refusing) => Some(refusing),
    };
    let blocked_by = refusing.as_ref().map(|Refusing { account, .. }| account.clone());
    let of_principal = |limit| QuotaRefusal {
        account: request.principal.clone(),
        quota: request.quota,
        waiting: queueing.most,
        exceeded: QuotaExceeded::until_unknown(limit),
    };
    let refusal = refusing.map_or_else(|| of_principal(QuotaLimit::Turn), |refusing| refusing.refusal(queueing.most));
    let waits = match refusal.exceeded.limit {
        QuotaLimit::Concurrency | QuotaLimit::Turn => true,
        // An intent that waits already keeps its turn until there is a token.
        QuotaLimit::Rate => own.is_some(),
        QuotaLimit::CpuPerDay | QuotaLimit::Waiting => false,
    };
    if !waits || last || queueing.wait.is_zero() {
        return answered(Begun::Refused(refusal));
    }
    if own.is_none() && !has_space(connection, owners, (request, queueing))? {
        return Ok(Attempt::Answered(Begun::Refused(of_principal(QuotaLimit::Waiting))));
    }
    record(connection, (owner, id), (request, queueing), (own.as_ref(), blocked_by.as_ref()))?;
    Ok(Attempt::Waits)
}

/// Returns true if another intent begins before that of `waiter`.
fn must_wait(connection: &Connection, owners: &Owners, (id, waiter): (IntentId, &Waiter), now: i64) -> Result<bool, StateError> {
    let id = id.to_string();
    for row in WaitingRow::all(connection)? {
        // The lock of an owner is examined only if its intent would begin first.
        let is_first = row.id != id && row.is_seen(now) && waiter.yields_to(&row.waiter);
        if is_first && owners.is_alive(&row.owner)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes the record of a waiting intent.
///
/// # Errors
/// [`StateError`].
pub(crate) fn remove(connection: &Connection, id: IntentId) -> Result<(), StateError> {
    connection.prepare_cached("DELETE FROM waiting WHERE id = ?1")?.execute([id.to_string()])?;
    Ok(())
}

/// Removes the waiting intents of owners that have no record.
///
/// # Errors
/// [`StateError`].
pub(crate) fn remove_abandoned(connection: &Connection) -> Result<(), StateError> {
    connection.prepare_cached("DELETE FROM waiting WHERE owner NOT IN (SELECT id FROM owners)")?.execute([])?;
    Ok(())
}

/// Returns the number of waiting intents that will be charged to an account.
///
/// # Errors
/// [`StateError`].
pub(crate) fn waiting(connection: &Connection, account: &Label) -> Result<i64, StateError> {
    let name = account.to_string();
    let count = WaitingRow::all(connection)?.iter().filter(|row| row.waiter.accounts.contains(&name)).count();
    Ok(i64::try_from(count).unwrap_or(i64::MAX))
}

/// Returns true if the principal may have another waiting intent.
fn has_space(
    connection: &Connection,
    owners: &Owners,
    (request, queueing): (&BeginIntent, Queueing),
) -> Result<bool, StateError> {
    let most = usize::try_from(queueing.most).unwrap_or(usize::MAX);
    let mut select = connection.prepare_cached("SELECT id, owner FROM waiting WHERE principal = ?1")?;
    let own = select.query_map([request.principal.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let own: Vec<(String, String)> = own.collect::<Result<_, _>>()?;
    if own.len() < most {
        return Ok(true);
    }
    let mut living = 0;
    for (id, owner) in own {
        if owners.is_alive(&owner)? {
            living += 1;
        } else {
            connection.prepare_cached("DELETE FROM waiting WHERE id = ?1")?.execute([id])?;
        }
    }
    Ok(living < most)
}

/// Records that an intent waits, and for which account.
fn record(
    connection: &Connection,
    (owner, id): (&str, IntentId),
    (request, queueing): (&BeginIntent, Queueing),
    (own, blocked_by): (Option<&WaitingRow>, Option<&Label>),
) -> Result<(), StateError> {
    let (now, blocked_by) = (stored(request.now), blocked_by.map(ToString::to_string));
    if let Some(row) = own {
        let is_fresh = now.abs_diff(row.seen) < REFRESH.unsigned_abs();
        if !is_fresh || row.waiter.blocked_by != blocked_by {
            let mut update = connection.prepare_cached("UPDATE waiting SET seen = ?2, blocked_by = ?3 WHERE id = ?1")?;
            update.execute(params![id.to_string(), now, blocked_by])?;
        }
        return Ok(());
    }
    let mut insert = connection.prepare_cached(
        "INSERT INTO waiting (id, principal, owner, priority, accounts, blocked_by, since, seen)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)",
    )?;
    // A label contains no line end.
    let accounts: Vec<_> = account_names(request).into_iter().collect();
    let (principal, priority) = (request.principal.to_string(), queueing.priority.rank());
    insert.execute(params![id.to_string(), principal, owner, priority, accounts.join("\n"), blocked_by, now])?;
    Ok(())
}

fn account_names(request: &BeginIntent) -> BTreeSet<String> {
    reservation::accounts(request).map(|(name, _, _)| name.to_string()).collect()
}

const SELECT: &str = "SELECT id, owner, seen, number, priority, accounts, blocked_by,
    (SELECT count(*) FROM intents AS i WHERE i.principal = w.principal AND i.owner IS NOT NULL),
    (SELECT max(begun) FROM intents AS i WHERE i.principal = w.principal),
    sum IS row_sum(number, id, principal, owner, priority, accounts, blocked_by, since, seen)
    FROM waiting AS w";

impl WaitingRow {
    /// Returns all waiting intents.
    fn all(connection: &Connection) -> Result<Vec<Self>, StateError> {
        let mut select = connection.prepare_cached(SELECT)?;
        let mut found = select.query([])?;
        let mut rows = Vec::new();
        while let Some(row) = found.next()? {
            rows.push(Self::read(row)?);
        }
        Ok(rows)
    }

    /// Returns a waiting intent.
    fn find(connection: &Connection, id: IntentId) -> Result<Option<Self>, StateError> {
        let mut select = connection.prepare_cached(&format!("{SELECT} WHERE id = ?1"))?;
        select.query_one([id.to_string()], |row| Ok(Self::read(row))).optional()?.transpose()
    }

    fn read(row: &Row<'_>) -> Result<Self, StateError> {
        let id: String = row.get(0)?;
        if !row.get::<_, bool>(9)? {
            return Err(StateError::Damaged(format!("the waiting intent {id} does not match its checksum")));
        }
        let accounts: String = row.get(5)?;
        let waiter = Waiter {
            number: row.get(3)?,
            priority: row.get(4)?,
            in_flight: row.get(7)?,
            last_begun: row.get::<_, Option<i64>>(8)?.unwrap_or(0),
            accounts: accounts.lines().map(str::to_owned).collect(),
            blocked_by: row.get(6)?,
        };
        Ok(Self { id, owner: row.get(1)?, seen: row.get(2)?, waiter })
    }

    /// Returns true if the process of the intent has tried to begin it lately.
    fn is_seen(&self, now: i64) -> bool {
        now.abs_diff(self.seen) < STALE.unsigned_abs()
    }
}

impl Waiter {
    /// Returns the turn of an intent that arrives: after all others of its principal.
    fn arriving(connection: &Connection, request: &BeginIntent, priority: Priority) -> Result<Self, StateError> {
        let principal = &request.principal;
        let in_flight = account::reserved(connection, (principal, false), |_| Ok(true))?.intents;
        let mut select = connection.prepare_cached("SELECT max(begun) FROM intents WHERE principal = ?1")?;
        let last: Option<Option<i64>> = select.query_one([principal.to_string()], |row| row.get(0)).optional()?;
        Ok(Self {
            number: i64::MAX,
            priority: priority.rank(),
            in_flight,
            last_begun: last.flatten().unwrap_or(0),
            accounts: account_names(request),
            blocked_by: None,
        })
    }
}
