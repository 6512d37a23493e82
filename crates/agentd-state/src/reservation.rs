//! The reservation of an intent in all accounts to which it is charged: that of its principal, and those that principals share.

use crate::{
    account,
    error::StateError,
    intent_id::IntentId,
    intents::BeginIntent,
    owner::Owners,
    quota::{Account, MAX_RESERVATION, Quota, QuotaExceeded, QuotaRefusal, micros, stored},
};
use agentd_records::{Label, Timestamp};
use rusqlite::{Connection, params};

/// The accounts after the reservation.
pub(crate) struct ReservedAccounts<'r>(Vec<(&'r Label, Account)>);

/// The limit that refuses a reservation, and the account whose limit it is.
pub(crate) struct Refusing {
    pub account: Label,
    pub quota: Quota,
    pub exceeded: QuotaExceeded,
}

impl Refusing {
    /// Returns the refusal of an intent whose principal may have this number of waiting intents.
    pub fn refusal(self, waiting: u32) -> QuotaRefusal {
        let Self { account, quota, exceeded } = self;
        QuotaRefusal { account, quota, waiting, exceeded }
    }
}

/// Returns the accounts after the intent has begun. Writes nothing.
///
/// # Errors
/// [`StateError`].
pub(crate) fn reserve<'r>(
    connection: &Connection,
    owners: &Owners,
    request: &'r BeginIntent,
) -> Result<Result<ReservedAccounts<'r>, Refusing>, StateError> {
    let (now, cpu) = (stored(request.now), reservation(request));
    let mut after = Vec::with_capacity(1 + request.shared.len());
    for (name, quota, is_shared) in accounts(request) {
        let account = account::read(connection, name)?;
        let holder = (name, is_shared);
        let reserve = |reserved| account.reserve(quota, reserved, cpu, now);
        let reserved = match reserve(account::reserved(connection, holder, |_| Ok(true))?) {
            Ok(account) => Ok(account),
            // Reservations of dead owners do not count. They are examined only when they decide.
            Err(_) => reserve(account::reserved(connection, holder, |other| owners.is_alive(other))?),
        };
        match reserved {
            Ok(account) => after.push((name, account)),
            Err(exceeded) => return Ok(Err(Refusing { account: name.clone(), quota: *quota, exceeded })),
        }
    }
    Ok(Ok(ReservedAccounts(after)))
}

/// Returns the processor time that an intent reserves, in microseconds.
pub(crate) fn reservation(request: &BeginIntent) -> i64 {
    micros(request.cpu).min(MAX_RESERVATION)
}

/// Returns the accounts of an intent, each with its limits, and true if principals share the account.
pub(crate) fn accounts(request: &BeginIntent) -> impl Iterator<Item = (&Label, &Quota, bool)> {
    let shared = request.shared.iter().map(|shared| (&shared.account, &shared.quota, true));
    std::iter::once((&request.principal, &request.quota, false)).chain(shared)
}

impl ReservedAccounts<'_> {
    /// Writes the accounts, and that the intent `id`, which has begun, is charged to them.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn write(&self, connection: &Connection, id: IntentId, request: &BeginIntent) -> Result<(), StateError> {
        for (name, account) in &self.0 {
            account::write(connection, name, *account)?;
        }
        let mut insert = connection.prepare_cached("INSERT INTO charges (intent, account) VALUES (?1, ?2)")?;
        for shared in &request.shared {
            insert.execute(params![id.to_string(), shared.account.to_string()])?;
        }
        Ok(())
    }
}

/// Charges the processor time of an intent that ends to all its accounts. The intent holds no place afterwards.
///
/// # Errors
/// [`StateError`].
pub(crate) fn settle(
    connection: &Connection,
    (id, principal): (IntentId, &Label),
    cpu_us: i64,
    now: Timestamp,
) -> Result<(), StateError> {
    let mut select =
        connection.prepare_cached("SELECT account, sum IS row_sum(intent, account) FROM charges WHERE intent = ?1")?;
    let rows = select.query_map([id.to_string()], |row| Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?)))?;
    let mut names = vec![principal.clone()];
    for row in rows {
        let damaged = || StateError::Damaged(format!("an account of the intent {id} does not match its checksum"));
        match row? {
            (name, true) => names.push(Label::try_from(name).map_err(|_| damaged())?),
            (_, false) => return Err(damaged()),
        }
    }
    for name in &names {
        let account = account::read(connection, name)?.charge(cpu_us, stored(now));
        account::write(connection, name, account)?;
    }
    connection.prepare_cached("DELETE FROM charges WHERE intent = ?1")?.execute([id.to_string()])?;
    Ok(())
}
