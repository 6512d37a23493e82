//! Quotas, which are reserved when an intent begins.

use crate::place::{Place, finished, interrupted, open, request};
use agentd_records::Timestamp;
use agentd_state::{BeginIntent, Begun, EndIntent, Quota, QuotaExceeded, QuotaLimit, Rate, StateStore};
use std::{num::NonZeroU32, time::Duration};

const SECOND: Duration = Duration::from_secs(1);

fn limited(quota: Quota) -> BeginIntent {
    BeginIntent { quota, ..request("alice", None, "a") }
}

fn refusal(place: &Place, store: &StateStore, request: BeginIntent) -> QuotaExceeded {
    let answer = place.begin(store, request);
    let Begun::Refused(refusal) = answer else { panic!("{answer:?}") };
    assert_eq!(refusal.account.to_string(), "alice");
    refusal.exceeded
}

#[test]
fn refused_intent_is_not_recorded_and_its_key_is_free() {
    let place = Place::new();
    let store = place.open();
    let rate = Rate { intents: NonZeroU32::new(2).unwrap(), interval: SECOND * 60 };
    let keyed = |key: &str, now| BeginIntent {
        now,
        quota: Quota { rate: Some(rate), ..Quota::default() },
        ..request("alice", Some(key), "a")
    };
    let now = Timestamp::now();
    place.begin_new(&store, keyed("1", now));
    place.begin_new(&store, keyed("2", now));
    let refused = refusal(&place, &store, keyed("3", now));
    assert_eq!(refused, QuotaExceeded { limit: QuotaLimit::Rate, retry_after: SECOND * 30 });
    // A duplicate needs no token, and another principal has a bucket of its own.
    assert!(matches!(place.begin(&store, keyed("1", now)), Begun::InFlight(_)));
    assert!(matches!(
        place.begin(&store, BeginIntent { principal: "bob".try_into().unwrap(), ..keyed("1", now) }),
        Begun::New(_)
    ));
    drop(store);
    let store = place.open();
    refusal(&place, &store, keyed("3", now));
    place.begin_new(&store, keyed("3", now.plus_seconds(30)));
    place.assert_sound(&store);
}

#[test]
fn reservation_ends_with_its_intent_or_its_owner() {
    let place = Place::new();
    let (store, other) = (place.open(), open(&place.folder()));
    let two = || limited(Quota { concurrency: Some(2), ..Quota::default() });
    let first = place.begin_new(&store, two());
    let second = place.begin_new(&other, two());
    for store in [&store, &other] {
        assert_eq!(refusal(&place, store, two()).limit, QuotaLimit::Concurrency);
    }
    place.end(&store, finished(first, ""));
    place.begin_new(&store, two());
    assert_eq!(refusal(&place, &other, two()).limit, QuotaLimit::Concurrency);
    drop(store);
    place.begin_new(&other, two());
    assert_eq!(refusal(&place, &other, two()).limit, QuotaLimit::Concurrency);
    place.end(&other, finished(second, ""));
    place.begin_new(&other, two());
}

#[test]
fn processor_time_is_reserved_charged_and_reset_the_next_day() {
    let place = Place::new();
    let store = place.open();
    let noon = Timestamp::try_from("2031-05-01T12:00:00.000000Z".to_owned()).unwrap();
    let wants = |seconds: u32, now| BeginIntent {
        now,
        cpu: SECOND * seconds,
        ..limited(Quota { cpu_per_day: Some(SECOND * 10), ..Quota::default() })
    };
    let id = place.begin_new(&store, wants(6, noon));
    assert_eq!(refusal(&place, &store, wants(5, noon)).limit, QuotaLimit::CpuPerDay);
    place.end(&store, EndIntent { cpu: Some(SECOND * 2), now: noon, ..finished(id, "") });
    let lost = place.begin_new(&store, wants(5, noon));
    // The use of an interrupted intent is unknown: the whole reservation counts.
    place.end(&store, EndIntent { now: noon, ..interrupted(lost) });
    let refused = refusal(&place, &store, wants(4, noon));
    assert_eq!(refused, QuotaExceeded { limit: QuotaLimit::CpuPerDay, retry_after: SECOND * 12 * 3600 });
    place.begin_new(&store, wants(3, noon));
    place.begin_new(&store, wants(7, noon.plus_seconds(12 * 3600)));
    place.assert_sound(&store);
}
