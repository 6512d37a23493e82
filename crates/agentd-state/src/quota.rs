//! Quotas of a principal, as functions from the recorded use to a decision.

use agentd_records::{Label, Timestamp};
use std::{num::NonZeroU32, time::Duration};

/// A day in microseconds.
pub(crate) const DAY: i64 = 86_400_000_000;

/// The longest reservation of processor time. The sum over all intents in flight cannot overflow.
pub(crate) const MAX_RESERVATION: i64 = 366 * DAY;

/// The time after which a request can be repeated, if the time at which another intent ends is unknown.
const UNKNOWN: Duration = Duration::from_secs(1);

/// The limits of a principal. The caller takes them from its policy; `None` means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// The number of intents in an interval.
    pub rate: Option<Rate>,
    /// The number of intents in flight.
    pub concurrency: Option<u32>,
    /// The processor time of a day (UTC), over all intents.
    pub cpu_per_day: Option<Duration>,
}

/// Limits that a principal shares with others, such as those of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedQuota {
    /// The name of the account. It must not be that of a principal.
    pub account: Label,
    /// The limits of all principals of the account together.
    pub quota: Quota,
}

/// A token bucket of `intents` tokens, which is filled evenly in `interval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The size of the bucket: the number of intents that may begin at once.
    pub intents: NonZeroU32,
    /// The time in which an empty bucket becomes full.
    pub interval: Duration,
}

/// A limit that an intent would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum QuotaLimit {
    /// [`Quota::rate`].
    Rate,
    /// [`Quota::concurrency`].
    Concurrency,
    /// [`Quota::cpu_per_day`].
    CpuPerDay,
    /// [`Queueing::most`](crate::Queueing::most).
    Waiting,
    /// No limit: intents of other principals that wait begin first.
    Turn,
}

/// The refusal of an intent that would exceed a quota. Nothing was recorded and nothing consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaExceeded {
    /// The limit.
    pub limit: QuotaLimit,
    /// The earliest time at which a repeated request can succeed, from now; one second if unknown.
    pub retry_after: Duration,
}

/// The refusal of an intent, and the limits that refuse it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaRefusal {
    /// The account whose limit would be exceeded: that of the principal, or one that principals share.
    pub account: Label,
    /// The limits of the account.
    pub quota: Quota,
    /// The most intents of the principal that may wait.
    pub waiting: u32,
    /// The limit that would be exceeded.
    pub exceeded: QuotaExceeded,
}

impl QuotaExceeded {
    /// Returns the refusal by a limit that is free again at an unknown time.
    pub(crate) fn until_unknown(limit: QuotaLimit) -> Self {
        Self { limit, retry_after: UNKNOWN }
    }
}

/// The recorded use of a principal. Times are microseconds since 1970, durations microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// The time at which the token bucket will be full (the theoretical arrival time of the generic cell rate algorithm).
    pub full_at: i64,
    /// The day of `cpu_us`, in days since 1970.
    pub cpu_day: i64,
    /// The processor time of that day.
    pub cpu_us: i64,
}

/// The reservations of the intents in flight of a principal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reserved {
    pub intents: i64,
    pub cpu_us: i64,
}

/// Returns microseconds since 1970 as SQLite stores them.
pub(crate) fn stored(time: Timestamp) -> i64 {
    i64::try_from(time.micros()).unwrap_or(i64::MAX)
}

/// Returns microseconds as SQLite stores them.
pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Returns the duration of a number of microseconds.
pub(crate) fn duration(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

impl Account {
    /// Returns the account after an intent that begins `now` and reserves `cpu_us`.
    ///
    /// # Errors
    /// [`QuotaExceeded`].
    pub fn reserve(self, quota: &Quota, reserved: Reserved, cpu_us: i64, now: i64) -> Result<Self, QuotaExceeded> {
        let refused = |limit, retry_after| Err(QuotaExceeded { limit, retry_after });
        if quota.concurrency.is_some_and(|most| reserved.intents >= i64::from(most)) {
            return refused(QuotaLimit::Concurrency, UNKNOWN);
        }
        let account = self.at_day(now);
        if let Some(most) = quota.cpu_per_day.map(micros) {
            // At least one microsecond must be left, even for an intent that reserves nothing.
            let wanted = cpu_us.max(1);
            if account.cpu_us.saturating_add(wanted) > most {
                return refused(QuotaLimit::CpuPerDay, duration(DAY - now.rem_euclid(DAY)));
            }
            if account.cpu_us.saturating_add(reserved.cpu_us).saturating_add(wanted) > most {
                return refused(QuotaLimit::CpuPerDay, UNKNOWN);
            }
        }
        let Some(rate) = quota.rate else { return Ok(account) };
        let interval = micros(rate.interval);
        let token = (interval / i64::from(rate.intents.get())).max(1);
        let was_full_at = account.full_at.max(now);
        // A time more than an interval ahead is from before the clock was set back, or from another rate. Beyond two intervals,
        // the bucket counts as full, so that nobody is excluded for long.
        let was_full_at = match was_full_at.saturating_sub(now) {
            ahead if ahead > interval.saturating_mul(2) => now,
            _ => was_full_at,
        };
        let full_at = was_full_at.saturating_add(token);
        let allowed_at = full_at.saturating_sub(interval);
        if allowed_at > now && was_full_at > now {
            return refused(QuotaLimit::Rate, duration(allowed_at - now));
        }
        Ok(Self { full_at, ..account })
    }

    /// Returns the account after an intent that has used `cpu_us` of processor time has ended `now`.
    pub fn charge(self, cpu_us: i64, now: i64) -> Self {
        let account = self.at_day(now);
        Self { cpu_us: account.cpu_us.saturating_add(cpu_us.max(0)), ..account }
    }

    /// Returns the number of intents that the rate allows to begin at once.
    pub fn available(self, rate: &Rate, now: i64) -> u32 {
        let (interval, most) = (micros(rate.interval), rate.intents.get());
        let token = (interval / i64::from(most)).max(1);
        let ahead = match self.full_at.saturating_sub(now).max(0) {
            ahead if ahead > interval.saturating_mul(2) => 0,
            ahead => ahead,
        };
        let free = interval.max(token).saturating_sub(ahead).max(0) / token;
        u32::try_from(free).map_or(most, |free| free.min(most))
    }

    /// Returns the processor time that was used on the day of `now`, in microseconds.
    pub fn used_today(self, now: i64) -> i64 {
        self.at_day(now).cpu_us
    }

    /// Returns the account at the day of `now`. A clock that was set back across midnight returns no processor time. A clock that
    /// was wrong by more than a day does not exclude the principal until that day.
    fn at_day(self, now: i64) -> Self {
        let day = now.div_euclid(DAY);
        let same = day == self.cpu_day || day.saturating_add(1) == self.cpu_day;
        if same { self } else { Self { cpu_day: day, cpu_us: 0, ..self } }
    }
}

#[cfg(test)]
#[path = "quota_tests.rs"]
mod tests;
