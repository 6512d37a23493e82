//! The schema and its versions.

use crate::{error::StateError, folder::StateFolder, row_sum};
use rusqlite::{Connection, TransactionBehavior};
use std::collections::BTreeSet;

/// The changes of the schema. The version of a store is the number of changes that were applied.
const MIGRATIONS: [&str; 3] =
    [include_str!("../migrations/0001.sql"), include_str!("../migrations/0002.sql"), include_str!("../migrations/0003.sql")];

/// The identifier of agentd's stores (`PRAGMA application_id`): `agst` in ASCII.
const APPLICATION: i64 = 0x6167_7374;

/// The contents of a database.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SchemaFound {
    /// No table at all.
    Nothing,
    /// A store with this number of applied migrations.
    Version(usize),
}

/// Returns what the database contains. Changes nothing.
///
/// # Errors
/// [`StateError::Newer`], [`StateError::Foreign`], and errors of reading.
pub(crate) fn examine(connection: &Connection, folder: &StateFolder) -> Result<SchemaFound, StateError> {
    let number = |sql: &str| connection.query_one(sql, [], |row| row.get::<_, i64>(0));
    let version = number("PRAGMA user_version")?;
    let application = number("PRAGMA application_id")?;
    if version == 0 && application == 0 && number("SELECT count(*) FROM sqlite_schema")? == 0 {
        return Ok(SchemaFound::Nothing);
    }
    let known = MIGRATIONS.len();
    match usize::try_from(version) {
        _ if application != APPLICATION => Err(StateError::Foreign(folder.database())),
        Ok(version) if (1..=known).contains(&version) => Ok(SchemaFound::Version(version)),
        Ok(version) if version > known => {
            let known = i64::try_from(known).unwrap_or(i64::MAX);
            Err(StateError::Newer { path: folder.database(), found: i64::try_from(version).unwrap_or(i64::MAX), known })
        }
        _ => Err(StateError::Damaged(format!("the schema version is {version}"))),
    }
}

/// Applies the missing migrations in one transaction.
///
/// # Errors
/// As for [`examine`], and errors of writing.
pub(crate) fn migrate(connection: &mut Connection, folder: &StateFolder) -> Result<(), StateError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let applied = match examine(&transaction, folder)? {
        SchemaFound::Nothing => 0,
        SchemaFound::Version(version) => version,
    };
    for migration in MIGRATIONS.iter().skip(applied) {
        transaction.execute_batch(migration)?;
    }
    if applied < MIGRATIONS.len() {
        transaction
            .execute_batch(&format!("PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {}", MIGRATIONS.len()))?;
    }
    Ok(transaction.commit()?)
}

/// Returns the differences between the tables, indexes and triggers of the database and those of its schema version. A damaged
/// definition could otherwise change what the store does.
///
/// # Errors
/// [`StateError`].
pub(crate) fn differences(connection: &Connection) -> Result<Vec<String>, StateError> {
    let fresh = Connection::open_in_memory()?;
    row_sum::add_to(&fresh)?;
    MIGRATIONS.iter().try_for_each(|migration| fresh.execute_batch(migration))?;
    let (expected, found) = (definitions(&fresh)?, definitions(connection)?);
    let different = expected.symmetric_difference(&found);
    let names: BTreeSet<_> =
        different.map(|[name, _, _]| format!("the definition of {name} is not that of the schema")).collect();
    Ok(names.into_iter().collect())
}

/// Returns name, kind and text of all tables, indexes and triggers.
fn definitions(connection: &Connection) -> Result<BTreeSet<[String; 3]>, StateError> {
    // The indexes of constraints have no text.
    let sql = "SELECT name, type || ' of ' || tbl_name, coalesce(sql, '') FROM sqlite_schema";
    let mut select = connection.prepare(sql)?;
    let rows = select.query_map([], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?]))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
