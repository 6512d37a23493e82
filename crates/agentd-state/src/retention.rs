//! Removes outcomes that are no longer kept.

use crate::{
    error::StateError,
    quota::{DAY, micros, stored},
};
use agentd_records::{Label, Timestamp};
use rusqlite::{Connection, params};
use std::time::Duration;

/// The maximum number of intents that the end of one intent removes.
const STEP: i64 = 64;

/// How long the outcomes of intents are kept. A repeated request with the key of an intent that was removed is executed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The maximum time since the end of an intent.
    pub age: Duration,
    /// The maximum number of ended intents of a principal.
    pub intents: u32,
    /// The maximum number of bytes of the outcomes of a principal.
    pub bytes: u64,
}

/// 24 hours, 10,000 intents and 64 MiB.
impl Default for Retention {
    fn default() -> Self {
        Self { age: Duration::from_secs(86_400), intents: 10_000, bytes: 64 << 20 }
    }
}

impl Retention {
    fn oldest(self, now: Timestamp) -> i64 {
        stored(now).saturating_sub(micros(self.age))
    }
}

/// Removes all intents that have ended too long ago, and principals that have used nothing since.
///
/// # Errors
/// [`StateError`].
pub(crate) fn remove_old(connection: &Connection, retention: Retention, now: Timestamp) -> Result<(), StateError> {
    connection.execute("DELETE FROM intents WHERE ended < ?1", [retention.oldest(now)])?;
    let yesterday = stored(now) / DAY - 1;
    connection.execute(
        "DELETE FROM principals WHERE records = 0 AND full_at <= ?1 AND cpu_day < ?2
         AND NOT EXISTS (SELECT 1 FROM intents WHERE principal = name AND owner IS NOT NULL)",
        params![stored(now), yesterday],
    )?;
    Ok(())
}

/// Removes the oldest ended intents that are too old, or exceed the numbers of a principal.
///
/// # Errors
/// [`StateError`].
pub(crate) fn remove_exceeding(
    connection: &Connection,
    retention: Retention,
    principal: &Label,
    now: Timestamp,
) -> Result<(), StateError> {
    let mut old = connection.prepare_cached(
        "DELETE FROM intents WHERE number IN (SELECT number FROM intents WHERE ended < ?1 ORDER BY ended LIMIT ?2)",
    )?;
    old.execute([retention.oldest(now), STEP])?;
    let principal = principal.to_string();
    let mut kept = connection.prepare_cached("SELECT records, bytes FROM principals WHERE name = ?1")?;
    let mut oldest = connection.prepare_cached(
        "DELETE FROM intents WHERE number IN
         (SELECT number FROM intents WHERE principal = ?1 AND ended IS NOT NULL ORDER BY ended, number LIMIT 1)",
    )?;
    for _ in 0..STEP {
        let (intents, bytes): (i64, i64) = kept.query_one([&principal], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let few = intents <= i64::from(retention.intents) && u64::try_from(bytes).unwrap_or(0) <= retention.bytes;
        if few || oldest.execute([&principal])? == 0 {
            break;
        }
    }
    Ok(())
}
