//! API keys: what one process changes, the next question of another process sees.

use crate::place::{Place, open};
use agentd_records::{ContentDigest, Label, Timestamp};
use agentd_state::{ApiKeyId, ApiKeyRecord, PublicKey, StateError};

const DAY: u64 = 24 * 60 * 60;

fn label(text: &str) -> Label {
    text.try_into().unwrap()
}

fn key(number: u8, created: Timestamp) -> ApiKeyRecord {
    ApiKeyRecord {
        id: ApiKeyId::of([number; 8]),
        digest: ContentDigest::of(&[number]),
        public_key: PublicKey::try_from(&[number; 32][..]).unwrap(),
        name: label("ci"),
        groups: vec![label("builders"), label("robots")],
        capabilities: Some(vec![label("fs.read.v1")]),
        transports: vec![label("rest")],
        created,
        created_by: label("uid:0"),
        expires: Some(created.plus_seconds(DAY)),
        revoked: None,
        last_used: None,
    }
}

#[test]
fn keys_survive_the_process_and_are_revoked_for_all_processes() {
    let (place, now) = (Place::new(), Timestamp::now());
    let whole = ApiKeyRecord { capabilities: None, groups: Vec::new(), expires: None, ..key(2, now.plus_seconds(1)) };
    let store = place.open();
    place.runtime.block_on(store.add_api_key(key(1, now))).unwrap();
    place.runtime.block_on(store.add_api_key(whole.clone())).unwrap();
    drop(store);
    let (daemon, command) = (place.open(), open(&place.folder()));
    assert_eq!(place.runtime.block_on(daemon.api_keys()).unwrap(), [key(1, now), whole.clone()]);
    let later = now.plus_seconds(5);
    let revoked = place.runtime.block_on(command.revoke_api_key(whole.id, later)).unwrap();
    assert_eq!(revoked.revoked, Some(later));
    assert_eq!(place.runtime.block_on(daemon.api_key(whole.id)).unwrap(), Some(revoked.clone()));
    let again = place.runtime.block_on(command.revoke_api_key(whole.id, later.plus_seconds(5))).unwrap();
    assert_eq!(again, revoked, "the first revocation stays");
    assert!(!revoked.is_valid(now) && key(1, now).is_valid(now));
    assert!(key(1, now).is_valid(now.plus_seconds(DAY - 1)) && !key(1, now).is_valid(now.plus_seconds(DAY)));
    let unknown = place.runtime.block_on(command.revoke_api_key(ApiKeyId::of([9; 8]), now));
    assert!(matches!(unknown, Err(StateError::UnknownApiKey(_))), "{unknown:?}");
    assert_eq!(place.runtime.block_on(daemon.api_key(ApiKeyId::of([9; 8]))).unwrap(), None);
    place.assert_sound(&daemon);
}

#[test]
fn use_is_recorded_once_a_minute() {
    let (place, now) = (Place::new(), Timestamp::now());
    let store = place.open();
    place.runtime.block_on(store.add_api_key(key(1, now))).unwrap();
    let used = |seconds| {
        let at = now.plus_seconds(seconds);
        place.runtime.block_on(store.api_key_used(key(1, now).id, at)).unwrap();
        place.runtime.block_on(store.api_key(key(1, now).id)).unwrap().unwrap().last_used.unwrap()
    };
    assert_eq!(used(1), now.plus_seconds(1));
    assert_eq!(used(60), now.plus_seconds(1));
    assert_eq!(used(61), now.plus_seconds(61));
}

#[test]
fn keys_are_removed_long_after_their_end_only() {
    let (place, now) = (Place::new(), Timestamp::now());
    let store = place.open();
    let for_ever = ApiKeyRecord { expires: None, ..key(2, now) };
    let revoked = ApiKeyRecord { revoked: Some(now), ..for_ever.clone() };
    for record in [key(1, now), for_ever.clone(), ApiKeyRecord { id: ApiKeyId::of([3; 8]), ..revoked }] {
        place.runtime.block_on(store.add_api_key(record)).unwrap();
    }
    let ids = |added: ApiKeyRecord| {
        place.runtime.block_on(store.add_api_key(added)).unwrap();
        place.runtime.block_on(store.api_keys()).unwrap().into_iter().map(|key| key.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(key(4, now.plus_seconds(80 * DAY))).len(), 4);
    let last = key(5, now.plus_seconds(92 * DAY));
    assert_eq!(ids(last.clone()), [for_ever.id, ApiKeyId::of([4; 8]), last.id]);
}
