//! Approvals: intents that wait until a user approves or denies them.

use crate::{error::StateError, intent_id::IntentId, intents::id_at, quota::stored};
use agentd_records::{ContentDigest, Label, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

/// The longest text that an approver reads, in bytes.
pub const MAX_TEXT: usize = 1 << 20;

/// A request for an approval.
#[derive(Debug, Clone)]
pub struct RequestApproval {
    /// The intent, which must be in flight.
    pub intent: IntentId,
    /// The text that the approver reads: what is to be executed, and why it needs an approval. At most [`MAX_TEXT`] bytes.
    pub text: String,
    /// The time at which the approval expires.
    pub expires: Timestamp,
    /// The current time.
    pub now: Timestamp,
}

/// A decision about an approval.
#[derive(Debug, Clone)]
pub struct DecideApproval {
    /// The intent.
    pub intent: IntentId,
    /// True to approve, false to deny.
    pub approve: bool,
    /// The user who decides.
    pub by: Label,
    /// The current time.
    pub now: Timestamp,
}

/// An approval of an intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// The intent.
    pub intent: IntentId,
    /// The user or service that requested the intent.
    pub principal: Label,
    /// The digest of the intent.
    pub digest: ContentDigest,
    /// The text that the approver reads. It may contain text of the requester: escape it for a terminal.
    pub text: String,
    /// The time of the request.
    pub requested: Timestamp,
    /// The time at which the approval expires.
    pub expires: Timestamp,
    /// The state of the approval.
    pub state: ApprovalState,
}

/// The state of an approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApprovalState {
    /// No user has decided yet.
    Pending,
    /// A user approved the intent.
    Approved {
        /// The user who decided.
        by: Label,
        /// The time of the decision.
        at: Timestamp,
    },
    /// A user denied the intent.
    Denied {
        /// The user who decided.
        by: Label,
        /// The time of the decision.
        at: Timestamp,
    },
    /// No user decided in time.
    Expired,
}

const SELECT: &str = "SELECT i.id, i.principal, i.digest, a.text, a.requested, a.expires, a.decision, a.decided_by, a.decided,
    a.sum IS row_sum(a.intent, a.text, a.requested, a.expires, a.decision, a.decided_by, a.decided) AND
    i.sum IS row_sum(i.number, i.id, i.principal, i.key, i.digest, i.state, i.owner, i.begun, i.ended, i.cpu_reserved, i.outcome)
    FROM approvals AS a JOIN intents AS i ON i.id = a.intent";

/// Records the request for an approval.
///
/// # Errors
/// [`StateError::TextTooLong`], [`StateError::UnknownIntent`], [`StateError::NotInFlight`] and [`StateError::ApprovalExists`].
pub(crate) fn request(connection: &Connection, request: &RequestApproval) -> Result<Approval, StateError> {
    let RequestApproval { intent, text, expires, now } = request;
    if text.len() > MAX_TEXT {
        return Err(StateError::TextTooLong { length: text.len(), limit: MAX_TEXT });
    }
    in_flight(connection, *intent)?;
    let mut insert = connection.prepare_cached(
        "INSERT INTO approvals (intent, text, requested, expires) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (intent) DO NOTHING",
    )?;
    if insert.execute(params![intent.to_string(), text, stored(*now), stored(*expires)])? == 0 {
        return Err(StateError::ApprovalExists(*intent));
    }
    find(connection, *intent, *now)
}

/// Approves or denies an intent that is in flight.
///
/// # Errors
/// [`StateError::NoApproval`], [`StateError::Decided`], [`StateError::Expired`] and [`StateError::NotInFlight`].
pub(crate) fn decide(connection: &Connection, decision: &DecideApproval) -> Result<Approval, StateError> {
    let DecideApproval { intent, approve, by, now } = decision;
    match find(connection, *intent, *now)?.state {
        ApprovalState::Pending => in_flight(connection, *intent)?,
        ApprovalState::Expired => return Err(StateError::Expired(*intent)),
        ApprovalState::Approved { .. } | ApprovalState::Denied { .. } => return Err(StateError::Decided(*intent)),
    }
    let mut update = connection.prepare_cached(
        "UPDATE approvals SET decision = ?2, decided_by = ?3, decided = ?4 WHERE intent = ?1 AND decision IS NULL",
    )?;
    let word = if *approve { "approved" } else { "denied" };
    update.execute(params![intent.to_string(), word, by.to_string(), stored(*now)])?;
    find(connection, *intent, *now)
}

/// Returns the approval of an intent.
///
/// # Errors
/// [`StateError::NoApproval`].
pub(crate) fn find(connection: &Connection, intent: IntentId, now: Timestamp) -> Result<Approval, StateError> {
    let mut select = connection.prepare_cached(&format!("{SELECT} WHERE a.intent = ?1"))?;
    let row = select.query_one([intent.to_string()], |row| Ok(read(row, now))).optional()?;
    row.unwrap_or(Err(StateError::NoApproval(intent)))
}

/// Returns the approvals that wait for a decision, the oldest first.
///
/// # Errors
/// [`StateError`].
pub(crate) fn pending(connection: &Connection, now: Timestamp) -> Result<Vec<Approval>, StateError> {
    let mut select = connection.prepare_cached(&format!(
        "{SELECT} WHERE i.state = 'in-flight' AND a.decision IS NULL AND a.expires > ?1 ORDER BY a.requested, i.number"
    ))?;
    let mut rows = select.query([stored(now)])?;
    let mut approvals = Vec::new();
    while let Some(row) = rows.next()? {
        approvals.push(read(row, now)?);
    }
    Ok(approvals)
}

fn in_flight(connection: &Connection, intent: IntentId) -> Result<(), StateError> {
    let mut select = connection.prepare_cached("SELECT owner IS NOT NULL FROM intents WHERE id = ?1")?;
    match select.query_one([intent.to_string()], |row| row.get(0)).optional()? {
        None => Err(StateError::UnknownIntent(intent)),
        Some(false) => Err(StateError::NotInFlight(intent)),
        Some(true) => Ok(()),
    }
}

fn read(row: &Row<'_>, now: Timestamp) -> Result<Approval, StateError> {
    let intent = id_at(row, 0)?;
    let damaged = || StateError::Damaged(format!("the approval of the intent {intent} does not match its checksum"));
    if !row.get::<_, bool>(9)? {
        return Err(damaged());
    }
    let label = |text: String| Label::try_from(text).map_err(|_| damaged());
    let time = |micros: i64| u64::try_from(micros).map(Timestamp::from_micros).map_err(|_| damaged());
    let expires = time(row.get(5)?)?;
    let decision: (Option<String>, Option<String>, Option<i64>) = (row.get(6)?, row.get(7)?, row.get(8)?);
    let state = match decision {
        (Some(word), Some(by), Some(at)) if word == "approved" => ApprovalState::Approved { by: label(by)?, at: time(at)? },
        (Some(_), Some(by), Some(at)) => ApprovalState::Denied { by: label(by)?, at: time(at)? },
        _ if expires <= now => ApprovalState::Expired,
        _ => ApprovalState::Pending,
    };
    Ok(Approval {
        intent,
        principal: label(row.get(1)?)?,
        digest: row.get::<_, String>(2)?.try_into().map_err(|_| damaged())?,
        text: row.get(3)?,
        requested: time(row.get(4)?)?,
        expires,
        state,
    })
}
