//! Runs one SQL statement on an SQLite database of unknown origin.
//!
//! The connection allows the minimum (`https://sqlite.org/security.html`): the authorizer of [`authorizer`] decides on each
//! statement, the schema is not trusted, and size, memory and time are limited. Without `write`, the file is opened for reading
//! only. [`value`] translates values.

mod authorizer;
mod value;

use crate::{
    deadline::Deadline,
    error::{ErrorCode, ToolError},
    limits,
    request::{SqlParameters, SqliteRequest},
    resolve::{LastLink, NamedPlace, Resolver},
    response::{SqliteResult, Truncation},
};
use rusqlite::{
    Connection, Error, ErrorCode as SqliteCode, OpenFlags, Statement, config::DbConfig, fallible_iterator::FallibleIterator,
    limits::Limit,
};
use rustix::fs::{CWD, OFlags, readlinkat};
use serde_json::Value;
use std::{
    ffi::OsStr,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    time::Duration,
};

/// The time for which a statement waits for another connection's lock.
const LOCK_TIME: Duration = Duration::from_secs(5);

/// The number of virtual machine instructions between two looks at the deadline.
const INSTRUCTIONS: i32 = 1000;

/// Memory and work that a statement may need (`https://sqlite.org/limits.html`).
const LIMITS: [(Limit, i32); 9] = [
    (Limit::SQLITE_LIMIT_LENGTH, 64 << 20),
    (Limit::SQLITE_LIMIT_SQL_LENGTH, 1 << 20),
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
    (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 100),
    (Limit::SQLITE_LIMIT_FUNCTION_ARG, 100),
    (Limit::SQLITE_LIMIT_ATTACHED, 0),
    (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 10_000),
    (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 50),
    (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
];

/// Settings that keep a hostile schema from running code (`https://sqlite.org/c3ref/c_dbconfig_defensive.html`).
const SETTINGS: [(DbConfig, bool); 4] = [
    (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
    (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
    (DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false),
    (DbConfig::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, false),
];

/// Runs the statement of a request.
pub(crate) fn query(resolver: &Resolver, request: &SqliteRequest) -> Result<SqliteResult, ToolError> {
    let path = request.path.as_bytes();
    if request.sql.len() > limits::SQL {
        return Err(ToolError::new(
            ErrorCode::Limit,
            "sqlite: the statement is longer than 1 MiB — bind large values as parameters",
        ));
    }
    let place = resolver.resolve("open", path, LastLink::Follow)?.require_name("open", path)?;
    let file = real_path(&place, request)?;
    let deadline = Deadline::of(request.time_ms);
    let failed = |error: Error| failure(path, &error);
    let connection = open(&file, request.write, deadline).map_err(failed)?;
    require_utf8_schema(&connection, path)?;
    run(connection, request, deadline)
}

/// Checks that the path leads to a regular file, or to none if a database may be created. Returns a path without links.
fn real_path(place: &NamedPlace, request: &SqliteRequest) -> Result<PathBuf, ToolError> {
    let path = request.path.as_bytes();
    let failed = |errno| ToolError::system("open", path, errno);
    let is_missing = place.stat().map_err(failed)?.is_none();
    if !(is_missing && request.write) {
        place.open_regular("open", path, if request.write { OFlags::RDWR } else { OFlags::RDONLY })?;
    }
    let descriptor = format!("/proc/self/fd/{}", place.directory.as_raw_fd());
    let directory = readlinkat(CWD, descriptor, Vec::new()).map_err(failed)?;
    Ok(Path::new(OsStr::from_bytes(directory.as_bytes())).join(&place.name))
}

fn open(file: &Path, write: bool, deadline: Deadline) -> Result<Connection, Error> {
    let access =
        if write { OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE } else { OpenFlags::SQLITE_OPEN_READ_ONLY };
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut connection = Connection::open_with_flags(file, flags)?;
    for (limit, value) in LIMITS {
        connection.set_limit(limit, value)?;
    }
    for (setting, value) in SETTINGS {
        connection.set_db_config(setting, value)?;
    }
    connection.busy_timeout(LOCK_TIME)?;
    connection.progress_handler(INSTRUCTIONS, Some(move || deadline.is_over()))?;
    connection.execute_batch(&format!(
        "PRAGMA hard_heap_limit={}; PRAGMA temp_store=MEMORY; PRAGMA mmap_size=0; PRAGMA cell_size_check=ON;",
        limits::SQLITE_HEAP
    ))?;
    Ok(connection)
}

/// Refuses a database with names that are not UTF-8: `rusqlite` ends the process when it meets one.
fn require_utf8_schema(connection: &Connection, path: &[u8]) -> Result<(), ToolError> {
    let failed = |error: Error| failure(path, &error);
    let mut statement = connection.prepare("SELECT name, tbl_name, sql FROM sqlite_schema").map_err(failed)?;
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next().map_err(failed)? {
        for column in 0..3 {
            if let rusqlite::types::ValueRef::Text(text) = row.get_ref(column).map_err(failed)?
                && std::str::from_utf8(text).is_err()
            {
                let why = "a name in the schema is not UTF-8 — repair the database with another program";
                return Err(ToolError::at(ErrorCode::Malformed, "read", path, why));
            }
        }
    }
    Ok(())
}

fn run(mut connection: Connection, request: &SqliteRequest, deadline: Deadline) -> Result<SqliteResult, ToolError> {
    let path = request.path.as_bytes();
    let failed = |error: Error| failure(path, &error);
    let write = request.write;
    connection
        .authorizer(Some(move |context: rusqlite::hooks::AuthContext<'_>| authorizer::decide(&context.action, write)))
        .map_err(failed)?;
    let mut batch = rusqlite::Batch::new(&connection, &request.sql);
    let invalid = |why: &str| ToolError::new(ErrorCode::Invalid, format!("sqlite: {why}"));
    let mut statement = batch.next().map_err(failed)?.ok_or_else(|| invalid("there is no statement — send one"))?;
    // A second statement may refer to what the first one creates, so any error means that there is one.
    if !matches!(batch.next(), Ok(None)) {
        return Err(invalid("there is more than one statement — send one request for each"));
    }
    bind(&mut statement, &request.parameters).map_err(|why| invalid(&why))?;
    let mut columns = Vec::new();
    for column in 0..statement.column_count() {
        columns.push(statement.column_name(column).map_err(failed)?.to_owned());
    }
    let reads_only = statement.readonly();
    let (rows, truncated) = rows(&mut statement, request, columns.len()).or_else(|(error, rows)| match error {
        // A statement that writes was rolled back.
        Error::SqliteFailure(error, _) if error.code == SqliteCode::OperationInterrupted && reads_only && deadline.is_over() => {
            Ok((rows, Some(Truncation::Time)))
        }
        error => Err(failed(error)),
    })?;
    drop(statement);
    let changes = if reads_only { 0 } else { connection.changes() };
    Ok(SqliteResult { columns, rows, changes, truncated })
}

type Rows = Vec<Vec<Value>>;

/// Returns the rows up to the limits. An error comes with the rows before it.
fn rows(
    statement: &mut Statement<'_>,
    request: &SqliteRequest,
    columns: usize,
) -> Result<(Rows, Option<Truncation>), (Error, Rows)> {
    let (max_rows, max_bytes) = (limits::ROWS.of(request.max_rows), limits::VALUES.of(request.max_bytes));
    let (mut result, mut bytes) = (Vec::new(), 0_u64);
    let mut rows = statement.raw_query();
    loop {
        let row = match rows.next() {
            Ok(Some(row)) => row,
            Ok(None) => return Ok((result, None)),
            Err(error) => return Err((error, result)),
        };
        if result.len() as u64 >= max_rows {
            return Ok((result, Some(Truncation::Count)));
        }
        let mut values = Vec::with_capacity(columns);
        for column in 0..columns {
            let Ok(value) = row.get_ref(column) else { break };
            bytes = bytes.saturating_add(value::size(value));
            if bytes > max_bytes {
                return Ok((result, Some(Truncation::Bytes)));
            }
            values.push(value::to_json(value));
        }
        result.push(values);
    }
}

/// Binds the parameters. Every parameter of the statement needs a value, and every value a parameter.
fn bind(statement: &mut Statement<'_>, parameters: &SqlParameters) -> Result<(), String> {
    let count = statement.parameter_count();
    match parameters {
        SqlParameters::Positional(values) => {
            if values.len() != count {
                return Err(format!(
                    "the statement has {count} parameters, and the request {} values — send as many",
                    values.len()
                ));
            }
            for (index, value) in values.iter().enumerate() {
                let value = value::from_json(value).map_err(|why| format!("parameter {}: {why}", index + 1))?;
                statement.raw_bind_parameter(index + 1, value).map_err(|error| error.to_string())?;
            }
        }
        SqlParameters::Named(values) => {
            let mut used = 0;
            for index in 1..=count {
                let name = statement.parameter_name(index).ok_or("a parameter has no name — send a list of values")?.to_owned();
                let bare = name.strip_prefix(':');
                let value =
                    values.get(&name).or_else(|| values.get(bare?)).ok_or_else(|| format!("parameter {name}: no value"))?;
                let value = value::from_json(value).map_err(|why| format!("parameter {name}: {why}"))?;
                statement.raw_bind_parameter(index, value).map_err(|error| error.to_string())?;
                used += 1;
            }
            if used != values.len() {
                return Err(format!("{} values for {used} parameters — send one value for each", values.len()));
            }
        }
    }
    Ok(())
}

/// Translates an error of SQLite.
fn failure(path: &[u8], error: &Error) -> ToolError {
    let code = match error {
        Error::SqliteFailure(error, _) => match error.code {
            SqliteCode::DatabaseCorrupt | SqliteCode::NotADatabase => ErrorCode::Malformed,
            SqliteCode::OperationInterrupted | SqliteCode::OutOfMemory | SqliteCode::TooBig | SqliteCode::DiskFull => {
                ErrorCode::Limit
            }
            SqliteCode::CannotOpen | SqliteCode::SystemIoFailure | SqliteCode::DatabaseBusy | SqliteCode::DatabaseLocked => {
                ErrorCode::System
            }
            SqliteCode::PermissionDenied => ErrorCode::PermissionDenied,
            _ => ErrorCode::Sql,
        },
        _ => ErrorCode::Sql,
    };
    let remedy = match code {
        ErrorCode::Malformed => " — the file is not a usable database",
        ErrorCode::Limit => " — read or write less, or allow more time",
        ErrorCode::System => " — check that the file and its directory can be accessed, and that no program holds a lock",
        _ => " — correct the statement; statements that write need `write`, and ATTACH and settings are never allowed",
    };
    ToolError::at(code, "sqlite", path, &format!("{error}{remedy}"))
}

#[cfg(test)]
#[path = "sqlite/tests.rs"]
mod tests;
