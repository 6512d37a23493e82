//! Owners of intents in flight. Each open store is an owner, and holds a lock that the kernel releases when its process dies. The
//! lock alone decides whether an owner lives. Process id, start time and boot id are recorded for people.

use crate::{
    error::StateError,
    folder::{StateFolder, remove},
    intent_id::IntentId,
    quota::stored,
};
use agentd_disk::Lock;
use agentd_log::LogFailure as _;
use agentd_records::Timestamp;
use rusqlite::{Connection, params};
use std::{fs, path::PathBuf};

/// This open store. Dropping the value releases the lock.
#[derive(Debug)]
pub(crate) struct Owner {
    owners: Owners,
    id: String,
    _lock: Lock,
}

/// The lock files of all owners.
#[derive(Debug, Clone)]
pub(crate) struct Owners(PathBuf);

impl Owners {
    pub fn of(folder: &StateFolder) -> Self {
        Self(folder.owners())
    }

    /// Returns true if the owner lives.
    ///
    /// # Errors
    /// [`StateError::Disk`] if the lock cannot be examined.
    pub fn is_alive(&self, id: &str) -> Result<bool, StateError> {
        // An identifier that is damaged could name another file.
        Ok(id.parse::<IntentId>().is_ok() && Lock::is_held(&self.0.join(id))?)
    }

    /// Removes the lock file of a dead owner.
    pub fn remove(&self, id: &str) {
        remove(&self.0.join(id)).or_warn("remove the lock file of an owner", id);
    }

    /// Removes the lock files of processes that died before they were recorded, or after their record was removed. The caller
    /// holds the lock of the folder.
    ///
    /// # Errors
    /// [`StateError`].
    fn remove_unrecorded(&self, connection: &Connection) -> Result<(), StateError> {
        for path in agentd_disk::entries(&self.0)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let sql = "SELECT EXISTS (SELECT 1 FROM owners WHERE id = ?1)";
            let recorded: bool = connection.query_one(sql, [&name], |row| row.get(0))?;
            if !recorded && !Lock::is_held(&path)? {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

impl Owner {
    /// Locks a new file and records this process. The caller holds the lock of the folder, and is in a transaction.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn record(folder: &StateFolder, connection: &Connection) -> Result<Self, StateError> {
        let owners = Owners::of(folder);
        owners.remove_unrecorded(connection)?;
        let id = IntentId::random()?.to_string();
        let path = owners.0.join(&id);
        let lock = Lock::try_take(&path)?
            .ok_or_else(|| StateError::Unwritten(format!("another process has locked the new file {path:?}")))?;
        let sql = "INSERT INTO owners (id, pid, start_time, boot, opened) VALUES (?1, ?2, ?3, ?4, ?5)";
        let (pid, now) = (i64::from(std::process::id()), stored(Timestamp::now()));
        connection.execute(sql, params![id, pid, start_time().unwrap_or(0), boot().unwrap_or_default(), now])?;
        Ok(Self { owners, id, _lock: lock })
    }

    /// Returns the identifier.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Removes the record and the file, unless intents of this owner are in flight: these are recovered by another process.
    pub fn release(&self, connection: &Connection) {
        let sql = "DELETE FROM owners WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM intents WHERE owner = ?1)";
        // A record that stays is removed by the next recovery.
        if connection.execute(sql, [&self.id]).or_debug("remove the record of an owner", &self.id) == Some(1) {
            self.owners.remove(&self.id);
        }
    }
}

/// Returns the time at which this process was started, in clock ticks since boot (`proc_pid_stat(5)`, field 22).
fn start_time() -> Option<i64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Returns the identifier of this boot of the kernel (`random(4)`).
fn boot() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}
