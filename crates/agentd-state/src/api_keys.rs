//! API keys: what a key permits, until when it is valid, and the digest by which a presented key is compared.
//!
//! Each question is answered from the database, so that a revocation by another process holds for the next request.

use crate::{api_key_id::ApiKeyId, error::StateError, public_key::PublicKey, quota::stored, store::StateStore};
use agentd_records::{ContentDigest, Label, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

/// The time for which a key is still listed after its end, in seconds.
const KEPT: u64 = 90 * 24 * 60 * 60;

/// The least time between two records of the use of a key, in microseconds.
const USE_INTERVAL: i64 = 60 * 1_000_000;

/// An API key, without the key itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyRecord {
    /// The identifier.
    pub id: ApiKeyId,
    /// The digest of the whole key.
    pub digest: ContentDigest,
    /// The public key by which tokens are verified that were made from the key.
    pub public_key: PublicKey,
    /// The name of the service that holds the key.
    pub name: Label,
    /// The groups of the service.
    pub groups: Vec<Label>,
    /// The capabilities that the key permits; `None` for all.
    pub capabilities: Option<Vec<Label>>,
    /// The transports by which the key may be used.
    pub transports: Vec<Label>,
    /// The time of the creation.
    pub created: Timestamp,
    /// The user who created the key.
    pub created_by: Label,
    /// The time from which the key is no longer valid; `None` for no such time.
    pub expires: Option<Timestamp>,
    /// The time at which the key was revoked.
    pub revoked: Option<Timestamp>,
    /// The time of the last use, exact to a minute.
    pub last_used: Option<Timestamp>,
}

impl ApiKeyRecord {
    /// Returns true if the key is valid at a time.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.revoked.is_none() && self.expires.is_none_or(|expires| now < expires)
    }
}

impl StateStore {
    /// Adds a key. When this function returns, the key is durable. Keys that ended more than 90 days ago are removed.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn add_api_key(&self, key: ApiKeyRecord) -> Result<(), StateError> {
        self.write(move |connection| add(connection, &key)).await
    }

    /// Returns a key; `None` if there is none with this identifier.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn api_key(&self, id: ApiKeyId) -> Result<Option<ApiKeyRecord>, StateError> {
        self.read(move |connection| find(connection, id)).await
    }

    /// Returns all keys, the oldest first.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn api_keys(&self) -> Result<Vec<ApiKeyRecord>, StateError> {
        self.read(|connection| {
            let mut select = connection.prepare_cached(&format!("{SELECT} ORDER BY created, id"))?;
            let mut rows = select.query([])?;
            let mut keys = Vec::new();
            while let Some(row) = rows.next()? {
                keys.push(read(row)?);
            }
            Ok(keys)
        })
        .await
    }

    /// Revokes a key for ever, and returns it. A key that was revoked before keeps the time of its revocation.
    ///
    /// # Errors
    /// [`StateError::UnknownApiKey`] and other errors of [`StateError`].
    pub async fn revoke_api_key(&self, id: ApiKeyId, now: Timestamp) -> Result<ApiKeyRecord, StateError> {
        self.write(move |connection| {
            let mut update = connection.prepare_cached("UPDATE api_keys SET revoked = coalesce(revoked, ?2) WHERE id = ?1")?;
            update.execute(params![id.to_string(), stored(now)])?;
            find(connection, id)?.ok_or(StateError::UnknownApiKey(id))
        })
        .await
    }

    /// Records that a key was used, at most once a minute.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn api_key_used(&self, id: ApiKeyId, now: Timestamp) -> Result<(), StateError> {
        let now = stored(now);
        self.write(move |connection| {
            let sql = "UPDATE api_keys SET last_used = ?2 WHERE id = ?1 AND (last_used IS NULL OR last_used <= ?2 - ?3)";
            connection.prepare_cached(sql)?.execute(params![id.to_string(), now, USE_INTERVAL])?;
            Ok(())
        })
        .await
    }
}

const SELECT: &str = "SELECT id, digest, public_key, name, member_of, capabilities, transports, created, created_by, expires, revoked,
    last_used, sum IS row_sum(id, digest, public_key, name, member_of, capabilities, transports, created, created_by, expires, revoked,
    last_used) FROM api_keys";

fn add(connection: &Connection, key: &ApiKeyRecord) -> Result<(), StateError> {
    let oldest = stored(key.created).saturating_sub(i64::try_from(KEPT * 1_000_000).unwrap_or(i64::MAX));
    let mut remove =
        connection.prepare_cached("DELETE FROM api_keys WHERE min(ifnull(revoked, ?1), ifnull(expires, ?1)) < ?1")?;
    remove.execute([oldest])?;
    let mut insert = connection.prepare_cached(
        "INSERT INTO api_keys (id, digest, public_key, name, member_of, capabilities, transports, created, created_by, expires, revoked,
         last_used) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?;
    insert.execute(params![
        key.id.to_string(),
        key.digest.to_string(),
        key.public_key.to_string(),
        key.name.to_string(),
        lines(&key.groups),
        key.capabilities.as_deref().map(lines),
        lines(&key.transports),
        stored(key.created),
        key.created_by.to_string(),
        key.expires.map(stored),
        key.revoked.map(stored),
        key.last_used.map(stored),
    ])?;
    Ok(())
}

fn find(connection: &Connection, id: ApiKeyId) -> Result<Option<ApiKeyRecord>, StateError> {
    let mut select = connection.prepare_cached(&format!("{SELECT} WHERE id = ?1"))?;
    select.query_one([id.to_string()], |row| Ok(read(row))).optional()?.transpose()
}

/// Returns a list as text. A label has no line break.
fn lines(labels: &[Label]) -> String {
    labels.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn read(row: &Row<'_>) -> Result<ApiKeyRecord, StateError> {
    let id: String = row.get(0)?;
    let damaged = || StateError::Damaged(format!("the API key {id} does not match its checksum"));
    if !row.get::<_, bool>(12)? {
        return Err(damaged());
    }
    let label = |text: String| Label::try_from(text).map_err(|_| damaged());
    let labels = |text: String| text.lines().map(|line| label(line.to_owned())).collect::<Result<Vec<_>, _>>();
    let time = |micros: i64| u64::try_from(micros).map(Timestamp::from_micros).map_err(|_| damaged());
    let [expires, revoked, last_used] = [9, 10, 11].map(|column| row.get::<_, Option<i64>>(column));
    Ok(ApiKeyRecord {
        id: id.parse().map_err(|_| damaged())?,
        digest: row.get::<_, String>(1)?.try_into().map_err(|_| damaged())?,
        public_key: PublicKey::parse(&row.get::<_, String>(2)?).map_err(|_| damaged())?,
        name: label(row.get(3)?)?,
        groups: labels(row.get(4)?)?,
        capabilities: row.get::<_, Option<String>>(5)?.map(labels).transpose()?,
        transports: labels(row.get(6)?)?,
        created: time(row.get(7)?)?,
        created_by: label(row.get(8)?)?,
        expires: expires?.map(time).transpose()?,
        revoked: revoked?.map(time).transpose()?,
        last_used: last_used?.map(time).transpose()?,
    })
}
