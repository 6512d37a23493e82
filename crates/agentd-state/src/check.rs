//! Examines the whole store.

use crate::{error::StateError, owner::Owners, schema};
use rusqlite::{Connection, types::Value};

/// The maximum number of problems in a report.
const MAX_PROBLEMS: usize = 100;

/// The contents of the store, and its damage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateReport {
    /// The schema version.
    pub schema: u64,
    /// Transactions since the store was created.
    pub transactions: u64,
    /// Intents in flight whose process lives.
    pub in_flight: u64,
    /// Intents in flight whose process is dead, and which the next recovery finds.
    pub orphaned: u64,
    /// Intents that wait for a place and have not begun.
    pub waiting: u64,
    /// Ended intents whose outcome is kept.
    pub ended: u64,
    /// Approvals, decided or not.
    pub approvals: u64,
    /// Principals and groups with a recorded use.
    pub principals: u64,
    /// The damage that was found; at most 100 texts.
    pub problems: Vec<String>,
}

/// Each table, and its columns in the order of its checksum.
const TABLES: [(&str, &str); 9] = [
    ("store", "id, commits"),
    ("owners", "id, pid, start_time, boot, opened"),
    ("principals", "name, full_at, cpu_day, cpu_us, records, bytes"),
    ("intents", "number, id, principal, key, digest, state, owner, begun, ended, cpu_reserved, outcome"),
    ("approvals", "intent, text, requested, expires, decision, decided_by, decided"),
    ("charges", "intent, account"),
    ("waiting", "number, id, principal, owner, priority, accounts, blocked_by, since, seen"),
    ("configuration", "name, before, after, state, since"),
    (
        "api_keys",
        "id, digest, public_key, name, member_of, capabilities, transports, created, created_by, expires, revoked, last_used",
    ),
];

/// Principals whose numbers of kept outcomes differ from their outcomes.
const MISCOUNTED: &str = "SELECT name FROM principals WHERE records <> (SELECT count(*) FROM intents
        WHERE principal = name AND ended IS NOT NULL)
    OR bytes <> (SELECT coalesce(sum(length(outcome)), 0) FROM intents WHERE principal = name AND ended IS NOT NULL)";

/// Intents whose principal has no row.
const UNACCOUNTED: &str = "SELECT id FROM intents WHERE NOT EXISTS (SELECT 1 FROM principals WHERE name = principal)";

/// Intents that have ended, and are still charged to an account.
const HELD: &str = "SELECT id FROM intents WHERE ended IS NOT NULL AND EXISTS (SELECT 1 FROM charges WHERE intent = id)";

/// Examines every page, index and row.
///
/// # Errors
/// [`StateError`] if the store cannot be read at all.
pub(crate) fn examine(connection: &Connection, owners: &Owners) -> Result<StateReport, StateError> {
    let mut report = StateReport::default();
    let mut problems = texts(connection, &format!("PRAGMA integrity_check({MAX_PROBLEMS})"))?;
    problems.retain(|text| text != "ok");
    problems.extend(schema::differences(connection)?);
    // Damage of the structure makes the other queries fail.
    if problems.is_empty() {
        for (table, columns) in TABLES {
            let sql = format!("SELECT rowid FROM {table} WHERE sum IS NOT row_sum({columns})");
            let rows = texts(connection, &sql)?;
            problems.extend(rows.iter().map(|row| format!("row {row} of {table} does not match its checksum")));
        }
        let rows = texts(connection, "SELECT \"table\" || ' ' || rowid FROM pragma_foreign_key_check")?;
        problems.extend(rows.iter().map(|row| format!("row {row} refers to a row that does not exist")));
        problems.extend(texts(connection, MISCOUNTED)?.iter().map(|name| format!("the outcomes of {name} are miscounted")));
        problems.extend(texts(connection, UNACCOUNTED)?.iter().map(|id| format!("the principal of the intent {id} is missing")));
        problems.extend(texts(connection, HELD)?.iter().map(|id| format!("the intent {id} has ended, and still holds a place")));
        count(connection, owners, &mut report)?;
    }
    problems.truncate(MAX_PROBLEMS);
    report.problems = problems;
    Ok(report)
}

fn count(connection: &Connection, owners: &Owners, report: &mut StateReport) -> Result<(), StateError> {
    let number = |sql: &str| -> Result<u64, StateError> {
        let number: i64 = connection.query_one(sql, [], |row| row.get(0))?;
        Ok(u64::try_from(number).unwrap_or(0))
    };
    report.schema = number("PRAGMA user_version")?;
    report.transactions = number("SELECT commits FROM store")?;
    report.waiting = number("SELECT count(*) FROM waiting")?;
    report.ended = number("SELECT count(*) FROM intents WHERE ended IS NOT NULL")?;
    report.approvals = number("SELECT count(*) FROM approvals")?;
    report.principals = number("SELECT count(*) FROM principals")?;
    for owner in texts(connection, "SELECT owner FROM intents WHERE owner IS NOT NULL")? {
        let alive = owners.is_alive(&owner)?;
        *(if alive { &mut report.in_flight } else { &mut report.orphaned }) += 1;
    }
    Ok(())
}

/// Returns the first column of each row as a text.
fn texts(connection: &Connection, sql: &str) -> Result<Vec<String>, StateError> {
    let mut select = connection.prepare(sql)?;
    let mut rows = select.query([])?;
    let mut texts = Vec::new();
    while let Some(row) = rows.next()? {
        texts.push(match row.get(0)? {
            Value::Text(text) => text,
            Value::Integer(number) => number.to_string(),
            other => format!("{other:?}"),
        });
    }
    Ok(texts)
}
