//! Opens the database.

use crate::{
    counter::CommitCounter,
    error::{BUSY_SECONDS, StateError},
    folder::StateFolder,
    owner::Owner,
    retention::{self, Retention},
    row_sum, schema,
};
use agentd_records::Timestamp;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use std::time::Duration;

/// The number of prepared statements that are cached.
const STATEMENTS: usize = 64;

/// The time between two attempts to lock the database.
const PAUSE: Duration = Duration::from_millis(1);

/// Settings of each connection. With `synchronous = FULL`, a commit in WAL mode flushes the journal
/// (<https://sqlite.org/pragma.html#pragma_synchronous>).
const SETTINGS: &str = "PRAGMA synchronous = FULL;
    PRAGMA foreign_keys = ON;
    PRAGMA trusted_schema = OFF;
    PRAGMA cell_size_check = ON;
    PRAGMA temp_store = MEMORY;
    PRAGMA journal_size_limit = 16777216;";

/// An open database.
pub(crate) struct Opened {
    pub connection: Connection,
    pub counter: CommitCounter,
    pub owner: Owner,
}

/// Opens the database, and creates it if necessary: checks that no acknowledged transaction is missing, migrates the schema,
/// removes what is no longer kept, and records this process as an owner.
///
/// # Errors
/// [`StateError`].
pub(crate) fn open(folder: &StateFolder, retention: Retention) -> Result<Opened, StateError> {
    let _lock = folder.lock()?;
    folder.create_database()?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut connection = Connection::open_with_flags(folder.database(), flags)?;
    connection.busy_handler(Some(wait_for_lock))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    row_sum::add_to(&connection)?;
    connection.execute_batch(SETTINGS)?;
    let counter = CommitCounter::open(folder)?;
    let empty = schema::examine(&connection, folder)? == schema::SchemaFound::Nothing;
    counter.compare(folder, || if empty { Ok(0) } else { commits(&connection) })?;
    let mode: String = connection.query_one("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(StateError::NoWal { path: folder.database(), mode });
    }
    schema::migrate(&mut connection, folder)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    retention::remove_old(&transaction, retention, Timestamp::now())?;
    let owner = Owner::record(folder, &transaction)?;
    transaction.commit()?;
    if empty {
        // The names of the new files survive a power failure.
        agentd_disk::flush_directory(&folder.owners())?;
        folder.flush()?;
    }
    Ok(Opened { connection, counter, owner })
}

/// Waits for the lock of another process; returns false after about [`BUSY_SECONDS`]. The pauses are short and equal: SQLite's
/// own handler waits longer and longer, and then misses the short times at which a busy process holds no lock.
fn wait_for_lock(attempt: i32) -> bool {
    std::thread::sleep(PAUSE);
    let waited = PAUSE.saturating_mul(attempt.unsigned_abs());
    waited < Duration::from_secs(BUSY_SECONDS)
}

/// Returns the number of transactions that the database contains.
///
/// # Errors
/// [`StateError`].
pub(crate) fn commits(connection: &Connection) -> Result<u64, StateError> {
    let sql = "SELECT commits, sum IS row_sum(id, commits) FROM store WHERE id = 1";
    let (number, is_sound): (i64, bool) = connection.query_one(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    match u64::try_from(number) {
        Ok(number) if is_sound => Ok(number),
        _ => Err(StateError::Damaged("the number of transactions does not match its checksum".to_owned())),
    }
}
