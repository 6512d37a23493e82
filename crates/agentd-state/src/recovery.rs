//! Takes over the intents whose process died.

use crate::{error::StateError, intent_id::IntentId, intents::id_at, owner::Owners, queue};
use agentd_records::{ContentDigest, Label, Timestamp};
use rusqlite::Connection;

/// An intent whose owner died before the end of the intent. The caller of the recovery is now its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// The identifier.
    pub id: IntentId,
    /// The user or service that requested.
    pub principal: Label,
    /// The digest of the whole intent.
    pub digest: ContentDigest,
    /// The time at which the intent began.
    pub begun: Timestamp,
}

/// Makes `owner` the owner of all intents whose owners are dead. Returns these intents and the dead owners.
///
/// # Errors
/// [`StateError`].
pub(crate) fn take_over(
    connection: &Connection,
    (owner, owners): (&str, &Owners),
) -> Result<(Vec<Orphan>, Vec<String>), StateError> {
    let mut select =
        connection.prepare_cached("SELECT owner FROM intents WHERE owner IS NOT NULL UNION SELECT id FROM owners")?;
    let all = select.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    let (mut orphans, mut dead) = (Vec::new(), Vec::new());
    for other in all {
        if other == owner || owners.is_alive(&other)? {
            continue;
        }
        orphans.extend(orphans_of(connection, &other)?);
        connection.prepare_cached("UPDATE intents SET owner = ?2 WHERE owner = ?1")?.execute([other.as_str(), owner])?;
        connection.prepare_cached("DELETE FROM owners WHERE id = ?1")?.execute([&other])?;
        dead.push(other);
    }
    queue::remove_abandoned(connection)?;
    Ok((orphans, dead))
}

fn orphans_of(connection: &Connection, owner: &str) -> Result<Vec<Orphan>, StateError> {
    let mut select = connection.prepare_cached(
        "SELECT id, principal, digest, begun,
         sum IS row_sum(number, id, principal, key, digest, state, owner, begun, ended, cpu_reserved, outcome)
         FROM intents WHERE owner = ?1 ORDER BY number",
    )?;
    let mut rows = select.query([owner])?;
    let mut orphans = Vec::new();
    while let Some(row) = rows.next()? {
        let id = id_at(row, 0)?;
        let (principal, digest, begun): (String, String, i64) = (row.get(1)?, row.get(2)?, row.get(3)?);
        let parsed = (Label::try_from(principal), ContentDigest::try_from(digest), u64::try_from(begun), row.get::<_, bool>(4)?);
        let (Ok(principal), Ok(digest), Ok(begun), true) = parsed else {
            return Err(StateError::Damaged(format!("the intent {id} does not match its checksum")));
        };
        orphans.push(Orphan { id, principal, digest, begun: Timestamp::from_micros(begun) });
    }
    Ok(orphans)
}
