//! Checksums of rows. SQLite finds damage of its own structures, but not of values. Each table has a stored column `sum` with the
//! checksum of the other columns, which `row_sum` computes.

use rusqlite::{
    Connection,
    functions::{Context, FunctionFlags},
    types::ValueRef,
};
use sha2::{Digest as _, Sha256};

/// The length of a checksum in bytes.
const LENGTH: usize = 8;

/// Adds the SQL function `row_sum`, which returns the checksum of its arguments.
///
/// # Errors
/// The error of SQLite.
pub(crate) fn add_to(connection: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    connection.create_scalar_function("row_sum", -1, flags, |context| Ok(sum(context)))
}

fn sum(context: &Context<'_>) -> Vec<u8> {
    let mut hash = Sha256::new();
    for index in 0..context.len() {
        let number;
        let (kind, bytes): (u8, &[u8]) = match context.get_raw(index) {
            ValueRef::Null => (0, &[]),
            ValueRef::Integer(value) => {
                number = value.to_le_bytes();
                (1, &number)
            }
            ValueRef::Real(value) => {
                number = value.to_le_bytes();
                (2, &number)
            }
            ValueRef::Text(text) => (3, text),
            ValueRef::Blob(blob) => (4, blob),
        };
        hash.update([kind]);
        hash.update(bytes.len().to_le_bytes());
        hash.update(bytes);
    }
    hash.finalize().iter().copied().take(LENGTH).collect()
}
