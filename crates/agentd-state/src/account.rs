//! The recorded use of principals: one row each.

use crate::{
    error::StateError,
    quota::{Account, Reserved},
};
use agentd_records::Label;
use rusqlite::{Connection, OptionalExtension as _, params};

/// Returns the account of a principal. A principal without a row has used nothing.
///
/// # Errors
/// [`StateError`].
pub(crate) fn read(connection: &Connection, principal: &Label) -> Result<Account, StateError> {
    let mut select = connection.prepare_cached(
        "SELECT full_at, cpu_day, cpu_us, sum IS row_sum(name, full_at, cpu_day, cpu_us, records, bytes)
         FROM principals WHERE name = ?1",
    )?;
    let found = select.query_one([principal.to_string()], |row| {
        Ok((Account { full_at: row.get(0)?, cpu_day: row.get(1)?, cpu_us: row.get(2)? }, row.get::<_, bool>(3)?))
    });
    match found.optional()? {
        None => Ok(Account::default()),
        Some((account, true)) => Ok(account),
        Some((_, false)) => Err(StateError::Damaged(format!("the account of {principal} does not match its checksum"))),
    }
}

/// Writes the account of a principal.
///
/// # Errors
/// [`StateError`].
pub(crate) fn write(connection: &Connection, principal: &Label, account: Account) -> Result<(), StateError> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO principals (name, full_at, cpu_day, cpu_us) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (name) DO UPDATE SET full_at = ?2, cpu_day = ?3, cpu_us = ?4",
    )?;
    insert.execute(params![principal.to_string(), account.full_at, account.cpu_day, account.cpu_us])?;
    Ok(())
}

/// The reservations of the intents in flight of a principal, and of all intents in flight that are charged to a shared account.
const RESERVED: [&str; 2] = [
    "SELECT owner, count(*), sum(cpu_reserved) FROM intents WHERE principal = ?1 AND owner IS NOT NULL GROUP BY owner",
    "SELECT owner, count(*), sum(cpu_reserved) FROM charges JOIN intents ON id = intent
     WHERE account = ?1 AND owner IS NOT NULL GROUP BY owner",
];

/// Returns the reservations of the intents in flight of a principal, or of a shared account, whose owners `counts` accepts.
///
/// # Errors
/// [`StateError`].
pub(crate) fn reserved(
    connection: &Connection,
    (name, is_shared): (&Label, bool),
    mut counts: impl FnMut(&str) -> Result<bool, StateError>,
) -> Result<Reserved, StateError> {
    let [own, shared] = RESERVED;
    let mut select = connection.prepare_cached(if is_shared { shared } else { own })?;
    let rows = select.query_map([name.to_string()], |row| {
        Ok((row.get::<_, String>(0)?, Reserved { intents: row.get(1)?, cpu_us: row.get(2)? }))
    })?;
    let mut total = Reserved::default();
    for row in rows {
        let (owner, reserved) = row?;
        if counts(&owner)? {
            total.intents = total.intents.saturating_add(reserved.intents);
            total.cpu_us = total.cpu_us.saturating_add(reserved.cpu_us);
        }
    }
    Ok(total)
}
