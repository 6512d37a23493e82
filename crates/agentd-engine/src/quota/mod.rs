//! Quotas: how much each principal may use, alone and together with others.
//!
//! An operator writes them into one file (`file`), which is reloaded without an interruption (`live`). Without a file, or for
//! what the file does not state, the usual values hold. The store counts the use, and keeps the queue of the intents that wait.

mod file;
mod live;

pub use file::{QuotaError, QuotaProblem};
pub use live::LiveQuotas;

use agentd_policy::PolicyPrincipal;
use agentd_records::{ContentDigest, InvalidLabel, Label};
use agentd_state::{Priority, Queueing, Quota, SharedQuota};
use std::{collections::BTreeMap, time::Duration};

/// The usual number of intents of a principal that are executed at once.
const CONCURRENCY: u32 = 256;

/// The usual number of intents of a principal that wait.
const WAITING: u32 = 256;

/// The usual time that an intent waits for a place.
const WAIT: Duration = Duration::from_secs(60);

/// The name of the account of all principals.
const TOTAL: &str = "total";

/// The limits of one table of the file. `None` is not stated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct QuotaLimits {
    pub quota: Quota,
    pub cpu_per_intent: Option<Duration>,
    pub waiting: Option<u32>,
    pub wait: Option<Duration>,
    pub priority: Option<Priority>,
}

/// The quotas of all principals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QuotaSet {
    total: Option<QuotaLimits>,
    default: QuotaLimits,
    principals: BTreeMap<String, QuotaLimits>,
    groups: BTreeMap<String, QuotaLimits>,
    digest: Option<ContentDigest>,
}

/// The limits that hold for an intent of one principal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrincipalQuota {
    /// The limits of the principal alone.
    pub quota: Quota,
    /// The limits of each group of the principal, and of all principals.
    pub shared: Vec<SharedQuota>,
    /// The most processor time of one intent, which the intent reserves; `None` if no limit of processor time holds.
    pub cpu_per_intent: Option<Duration>,
    /// How an intent waits for a place.
    pub queueing: Queueing,
}

impl QuotaLimits {
    /// Returns these limits, completed by those of `other`.
    fn or(&self, other: &Self) -> Self {
        let Quota { rate, concurrency, cpu_per_day } = self.quota;
        let cpu_per_day_of_other = other.quota.cpu_per_day;
        Self {
            quota: Quota {
                rate: rate.or(other.quota.rate),
                concurrency: concurrency.or(other.quota.concurrency),
                cpu_per_day: cpu_per_day.or(cpu_per_day_of_other),
            },
            // The time of an intent belongs to the time of a day.
            cpu_per_intent: if cpu_per_day.is_some() {
                self.cpu_per_intent
            } else {
                self.cpu_per_intent.or(other.cpu_per_intent)
            },
            waiting: self.waiting.or(other.waiting),
            wait: self.wait.or(other.wait),
            priority: self.priority.or(other.priority),
        }
    }
}

impl QuotaSet {
    /// Returns the digest of the file; `None` without a file.
    pub fn digest(&self) -> Option<ContentDigest> {
        self.digest
    }

    /// Returns the limits that hold for an intent of a principal.
    ///
    /// # Errors
    /// [`InvalidLabel`] for a group whose name is too long. The names of the file were compared before.
    pub fn of(&self, principal: &PolicyPrincipal) -> Result<PrincipalQuota, InvalidLabel> {
        let stated = self.principals.get(&principal.id());
        let own = self.own(&principal.id());
        let groups: BTreeMap<_, _> = principal.groups.iter().filter_map(|name| self.groups.get_key_value(name)).collect();
        let shared = groups.iter().map(|(name, limits)| (group_account(name), *limits));
        let shared: Vec<(String, &QuotaLimits)> =
            shared.chain(self.total.iter().map(|total| (TOTAL.to_owned(), total))).collect();
        let per_intent = shared.iter().filter_map(|(_, limits)| limits.cpu_per_intent).chain(own.cpu_per_intent).min();
        // What is stated for the principal decides, then the most important group.
        let priority = stated.and_then(|own| own.priority).or_else(|| groups.values().filter_map(|group| group.priority).max());
        let priority = priority.or(self.default.priority).unwrap_or_default();
        let account = |(name, limits): (String, &QuotaLimits)| Ok(SharedQuota { account: name.try_into()?, quota: limits.quota });
        Ok(PrincipalQuota {
            quota: own.quota,
            shared: shared.into_iter().map(account).collect::<Result<_, InvalidLabel>>()?,
            cpu_per_intent: per_intent,
            queueing: Queueing { priority, most: own.waiting.unwrap_or(WAITING), wait: own.wait.unwrap_or(WAIT) },
        })
    }

    /// Returns the names of all accounts that the file names.
    pub fn accounts(&self) -> impl Iterator<Item = String> {
        let groups = self.groups.keys().map(|name| group_account(name));
        self.principals.keys().cloned().chain(groups).chain(self.total.iter().map(|_| TOTAL.to_owned()))
    }

    /// Returns the limits of one account: their quota, the processor time of one intent, and true if principals share it.
    pub fn of_account(&self, name: &Label) -> (Quota, Option<Duration>, bool) {
        let name = name.to_string();
        let shared = match name.strip_prefix(GROUP) {
            Some(group) => self.groups.get(group).cloned(),
            None if name == TOTAL => self.total.clone(),
            None => {
                let own = self.own(&name);
                return (own.quota, own.cpu_per_intent, false);
            }
        };
        let shared = shared.unwrap_or_default();
        (shared.quota, shared.cpu_per_intent, true)
    }

    /// Returns the limits of a principal alone.
    fn own(&self, id: &str) -> QuotaLimits {
        let usual = QuotaLimits { quota: Quota { concurrency: Some(CONCURRENCY), ..Quota::default() }, ..QuotaLimits::default() };
        let default = self.default.or(&usual);
        self.principals.get(id).map_or_else(|| default.clone(), |own| own.or(&default))
    }
}

/// The beginning of the names of groups' accounts. No principal has such a name.
const GROUP: &str = "group:";

fn group_account(name: &str) -> String {
    format!("{GROUP}{name}")
}

#[cfg(test)]
mod tests;
