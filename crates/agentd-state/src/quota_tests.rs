//! Tests of quotas.

use super::*;
use proptest::prelude::*;

const SECOND: i64 = 1_000_000;

fn per(intents: u32, seconds: u64) -> Quota {
    let rate = Rate { intents: NonZeroU32::new(intents).unwrap(), interval: Duration::from_secs(seconds) };
    Quota { rate: Some(rate), ..Quota::default() }
}

fn limit(refused: Result<Account, QuotaExceeded>) -> QuotaLimit {
    refused.unwrap_err().limit
}

#[test]
fn full_bucket_allows_its_size_and_then_one_intent_per_token() {
    let (quota, now) = (per(3, 3), 10 * DAY);
    let mut account = Account::default();
    for _ in 0..3 {
        account = account.reserve(&quota, Reserved::default(), 0, now).unwrap();
    }
    let refused = account.reserve(&quota, Reserved::default(), 0, now).unwrap_err();
    assert_eq!(refused, QuotaExceeded { limit: QuotaLimit::Rate, retry_after: Duration::from_secs(1) });
    assert_eq!(limit(account.reserve(&quota, Reserved::default(), 0, now + SECOND - 1)), QuotaLimit::Rate);
    let account = account.reserve(&quota, Reserved::default(), 0, now + SECOND).unwrap();
    assert_eq!(limit(account.reserve(&quota, Reserved::default(), 0, now + SECOND)), QuotaLimit::Rate);
}

#[test]
fn bucket_smaller_than_the_clock_allows_one_intent_when_full() {
    for quota in [per(1, 0), per(u32::MAX, 1)] {
        assert!(Account::default().reserve(&quota, Reserved::default(), 0, DAY).is_ok());
    }
}

#[test]
fn clock_that_was_wrong_excludes_nobody_for_longer_than_two_intervals() {
    let quota = per(1, 60);
    let at = |now| Account::default().reserve(&quota, Reserved::default(), 0, now).unwrap();
    assert!(at(4000 * DAY).reserve(&quota, Reserved::default(), 0, DAY).is_ok());
    let refused = at(DAY + 50 * SECOND).reserve(&quota, Reserved::default(), 0, DAY).unwrap_err();
    assert_eq!(refused.retry_after, Duration::from_secs(110));
}

#[test]
fn concurrency_counts_intents_in_flight() {
    let quota = Quota { concurrency: Some(2), ..Quota::default() };
    let reserved = |intents| Reserved { intents, cpu_us: 0 };
    assert!(Account::default().reserve(&quota, reserved(1), 0, 0).is_ok());
    assert_eq!(limit(Account::default().reserve(&quota, reserved(2), 0, 0)), QuotaLimit::Concurrency);
    let none = Quota { concurrency: Some(0), ..Quota::default() };
    assert_eq!(limit(Account::default().reserve(&none, reserved(0), 0, 0)), QuotaLimit::Concurrency);
}

#[test]
fn processor_time_counts_use_and_reservations_until_the_next_day() {
    let quota = Quota { cpu_per_day: Some(Duration::from_secs(10)), ..Quota::default() };
    let now = 10 * DAY + DAY / 4;
    let account = Account::default().charge(4 * SECOND, now);
    let reserved = |seconds| Reserved { intents: 1, cpu_us: seconds * SECOND };
    assert!(account.reserve(&quota, reserved(3), 3 * SECOND, now).is_ok());
    let refused = account.reserve(&quota, reserved(4), 3 * SECOND, now).unwrap_err();
    assert_eq!(refused, QuotaExceeded { limit: QuotaLimit::CpuPerDay, retry_after: UNKNOWN });
    let refused = account.reserve(&quota, reserved(0), 7 * SECOND, now).unwrap_err();
    assert_eq!(refused.retry_after, Duration::from_secs(86_400 / 4 * 3));
    assert!(account.reserve(&quota, reserved(0), 7 * SECOND, 11 * DAY).is_ok());
    let spent = account.charge(6 * SECOND, now);
    assert_eq!(limit(spent.reserve(&quota, reserved(0), 0, now)), QuotaLimit::CpuPerDay);
}

#[test]
fn clock_set_back_across_midnight_returns_no_processor_time() {
    let quota = Quota { cpu_per_day: Some(Duration::from_secs(10)), ..Quota::default() };
    let spent = Account::default().charge(10 * SECOND, 10 * DAY + 1);
    assert!(spent.reserve(&quota, Reserved::default(), 0, 10 * DAY - 1).is_err());
    assert!(spent.reserve(&quota, Reserved::default(), 0, 5 * DAY).is_ok());
}

proptest! {
    /// In any interval, at most twice the size of the bucket begins: what was in the bucket, and what flowed in.
    #[test]
    fn rate_is_never_exceeded(intents in 1u32..20, seconds in 1u64..100, steps in prop::collection::vec(0i64..3_000_000, 1..200)) {
        let (quota, mut account, mut now) = (per(intents, seconds), Account::default(), 100 * DAY);
        let (interval, mut begun) = (micros(Duration::from_secs(seconds)), Vec::new());
        for step in steps {
            now += step;
            match account.reserve(&quota, Reserved::default(), 0, now) {
                Ok(next) => {
                    account = next;
                    begun.push(now);
                }
                Err(refused) => {
                    prop_assert!(refused.retry_after > Duration::ZERO);
                    let later = now + micros(refused.retry_after);
                    prop_assert!(account.reserve(&quota, Reserved::default(), 0, later).is_ok());
                }
            }
        }
        for start in &begun {
            let within = begun.iter().filter(|time| (*start..start + interval).contains(time)).count();
            prop_assert!(within <= 2 * usize::try_from(intents).unwrap());
        }
    }

    #[test]
    fn no_value_panics(full_at: i64, cpu_day: i64, cpu_us: i64, now: i64, cpu: i64, held: i64, intents: u32, seconds: u64) {
        let account = Account { full_at, cpu_day, cpu_us };
        let quota = Quota {
            concurrency: Some(intents),
            cpu_per_day: Some(Duration::from_secs(seconds)),
            ..per(intents.max(1), seconds)
        };
        let reserved = Reserved { intents: held, cpu_us: held };
        account.reserve(&quota, reserved, cpu, now).ok();
        account.charge(cpu, now);
    }
}
