//! The current use of accounts.

use crate::{
    account,
    error::StateError,
    queue,
    quota::{Rate, duration, stored},
    store::StateStore,
};
use agentd_records::{Label, Timestamp};
use rusqlite::Connection;
use std::{collections::BTreeSet, time::Duration};

/// An account: of a principal, or shared by principals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountName {
    /// The name.
    pub name: Label,
    /// True if principals share the account.
    pub is_shared: bool,
    /// The rate of the account, to compute the intents that may begin at once.
    pub rate: Option<Rate>,
}

/// The current use of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountUse {
    /// Intents in flight, also those whose process died and that were not recovered yet.
    pub in_flight: u64,
    /// Intents that wait for a place.
    pub waiting: u64,
    /// The processor time that the ended intents of this day (UTC) have used.
    pub cpu: Duration,
    /// The processor time that the intents in flight have reserved.
    pub cpu_reserved: Duration,
    /// The intents that the rate allows to begin at once; `None` without a rate.
    pub available: Option<u32>,
}

impl StateStore {
    /// Returns the current use of accounts, in their order. An account without a record has used nothing.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn usage(&self, accounts: Vec<AccountName>, now: Timestamp) -> Result<Vec<AccountUse>, StateError> {
        self.read(move |connection| accounts.iter().map(|account| of(connection, account, stored(now))).collect()).await
    }

    /// Returns the names of all principals and shared accounts with a recorded use.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn accounts(&self) -> Result<BTreeSet<Label>, StateError> {
        self.read(|connection| {
            let mut select = connection.prepare_cached("SELECT name FROM principals UNION SELECT principal FROM waiting")?;
            let names = select.query_map([], |row| row.get::<_, String>(0))?;
            let label = |name: String| Label::try_from(name).map_err(|error| StateError::Damaged(error.to_string()));
            names.map(|name| label(name?)).collect()
        })
        .await
    }
}

fn of(connection: &Connection, account: &AccountName, now: i64) -> Result<AccountUse, StateError> {
    let AccountName { name, is_shared, rate } = account;
    let reserved = account::reserved(connection, (name, *is_shared), |_| Ok(true))?;
    let recorded = account::read(connection, name)?;
    let number = |number: i64| u64::try_from(number).unwrap_or(0);
    Ok(AccountUse {
        in_flight: number(reserved.intents),
        waiting: number(queue::waiting(connection, name)?),
        cpu: duration(recorded.used_today(now)),
        cpu_reserved: duration(reserved.cpu_us),
        available: rate.map(|rate| recorded.available(&rate, now)),
    })
}
