//! The configuration that the audit log knows: digests of the sets of policies and of the quotas. A change is pending until it is
//! recorded in the audit log. A crash in between leaves it pending, and the next process completes it.

use crate::{
    error::{BUSY_SECONDS, StateError},
    quota::stored,
    store::StateStore,
};
use agentd_disk::Lock;
use agentd_records::{ContentDigest, Label, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The time between two attempts to lock.
const PAUSE: Duration = Duration::from_millis(10);

/// A change of the configuration that the audit log does not have yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigurationChange {
    /// The digest before; `None` for the default.
    pub before: Option<ContentDigest>,
    /// The digest from now on; `None` for the default.
    pub after: Option<ContentDigest>,
    /// The time at which the change was found.
    pub since: Timestamp,
    /// True if an earlier process has found the change. It may have recorded the change in the audit log.
    pub is_old: bool,
}

/// Proof that no other process records a change of the configuration. Dropping the value releases the lock.
#[derive(Debug)]
pub struct ConfigurationLock(#[expect(dead_code, reason = "owned only for its destructor, which releases the lock")] Lock);

/// A row of the table `configuration`.
struct ConfigurationRow {
    before: Option<ContentDigest>,
    after: Option<ContentDigest>,
    is_pending: bool,
    since: Timestamp,
}

impl StateStore {
    /// Returns true if the audit log knows that the part `name` of the configuration has this digest; `None` is the default.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn is_configured(&self, name: Label, digest: Option<ContentDigest>) -> Result<bool, StateError> {
        self.read(move |connection| {
            let row = find(connection, &name)?;
            Ok(row.map_or(digest.is_none(), |row| !row.is_pending && row.after == digest))
        })
        .await
    }

    /// Locks the record of the configuration. Waits up to 10 seconds for other processes and tasks. Needs a runtime of tokio with
    /// timers.
    ///
    /// # Errors
    /// [`StateError::Busy`] and [`StateError::Disk`].
    pub async fn lock_configuration(&self) -> Result<ConfigurationLock, StateError> {
        let begun = Instant::now();
        loop {
            if let Some(lock) = self.folder().try_lock_configuration()? {
                return Ok(ConfigurationLock(lock));
            }
            if begun.elapsed() > Duration::from_secs(BUSY_SECONDS) {
                return Err(StateError::Busy(BUSY_SECONDS));
            }
            sleep(PAUSE).await;
        }
    }

    /// Records that the part `name` of the configuration has this digest from now on. Returns the change that is to be recorded
    /// in the audit log, and then finished; `None` if nothing has changed. A change that is pending already is returned first.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn begin_change(
        &self,
        _lock: &ConfigurationLock,
        name: Label,
        digest: Option<ContentDigest>,
    ) -> Result<Option<ConfigurationChange>, StateError> {
        let now = Timestamp::now();
        self.write(move |connection| begin(connection, &name, digest, now)).await
    }

    /// Records that the audit log has the pending change of the part `name`.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn finish_change(&self, _lock: &ConfigurationLock, name: Label) -> Result<(), StateError> {
        self.write(move |connection| {
            let mut update = connection.prepare_cached("UPDATE configuration SET state = 'recorded' WHERE name = ?1")?;
            update.execute([name.to_string()])?;
            Ok(())
        })
        .await
    }
}

fn begin(
    connection: &Connection,
    name: &Label,
    digest: Option<ContentDigest>,
    now: Timestamp,
) -> Result<Option<ConfigurationChange>, StateError> {
    let known = match find(connection, name)? {
        Some(ConfigurationRow { before, after, is_pending: true, since }) => {
            return Ok(Some(ConfigurationChange { before, after, since, is_old: true }));
        }
        Some(row) => row.after,
        None => None,
    };
    if known == digest {
        return Ok(None);
    }
    let mut insert = connection.prepare_cached(
        "INSERT INTO configuration (name, before, after, state, since) VALUES (?1, ?2, ?3, 'pending', ?4)
         ON CONFLICT (name) DO UPDATE SET before = ?2, after = ?3, state = 'pending', since = ?4",
    )?;
    let text = |digest: Option<ContentDigest>| digest.map(|digest| digest.to_string());
    insert.execute(params![name.to_string(), text(known), text(digest), stored(now)])?;
    Ok(Some(ConfigurationChange { before: known, after: digest, since: now, is_old: false }))
}

fn find(connection: &Connection, name: &Label) -> Result<Option<ConfigurationRow>, StateError> {
    let mut select = connection.prepare_cached(
        "SELECT before, after, state = 'pending', since, sum IS row_sum(name, before, after, state, since)
         FROM configuration WHERE name = ?1",
    )?;
    let damaged = || StateError::Damaged(format!("the configuration {name} does not match its checksum"));
    select.query_one([name.to_string()], |row| Ok(read(row)?.ok_or_else(damaged))).optional()?.transpose()
}

/// Returns the row; `None` if it is damaged.
fn read(row: &Row<'_>) -> rusqlite::Result<Option<ConfigurationRow>> {
    let digest = |text: Option<String>| text.map(ContentDigest::try_from).transpose().ok();
    let since = u64::try_from(row.get::<_, i64>(3)?).ok().map(Timestamp::from_micros);
    let (before, after) = (digest(row.get(0)?), digest(row.get(1)?));
    let (is_pending, is_sound) = (row.get(2)?, row.get::<_, bool>(4)?);
    Ok(match (before, after, since, is_sound) {
        (Some(before), Some(after), Some(since), true) => Some(ConfigurationRow { before, after, is_pending, since }),
        _ => None,
    })
}
