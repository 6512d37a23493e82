use super::{failures::MAX_FAILURES, *};
use agentd_records::{Label, Timestamp};
use agentd_state::{Retention, StateStore};
use std::net::Ipv4Addr;

const REMOTE: Peer = Peer::Remote(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), None);

struct Keys {
    _folder: tempfile::TempDir,
    state: StateStore,
    authenticator: Authenticator,
}

fn label(text: &str) -> Label {
    text.try_into().unwrap()
}

impl Keys {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = StateStore::open(&folder.path().join("state"), Retention::default()).unwrap();
        let authenticator = Authenticator::new(KeyStores { keys: state.clone(), uses: state.clone() }, None).unwrap();
        Self { _folder: folder, state, authenticator }
    }

    async fn create(&self, change: impl FnOnce(&mut ApiKeyRecord)) -> ApiKey {
        let key = ApiKey::random().unwrap();
        let mut record = ApiKeyRecord {
            id: key.id(),
            digest: key.digest(),
            public_key: public_key(&key).unwrap(),
            name: label("ci"),
            groups: vec![label("builders")],
            capabilities: None,
            transports: vec![label("rest")],
            created: Timestamp::now(),
            created_by: label("uid:0"),
            expires: None,
            revoked: None,
            last_used: None,
        };
        change(&mut record);
        self.state.add_api_key(record).await.unwrap();
        key
    }

    async fn caller(&self, peer: &Peer, text: &str) -> Result<Caller, AuthError> {
        self.authenticator.caller(peer, Interface::Rest, Credential::Bearer(text)).await
    }

    async fn without(&self, peer: &Peer) -> Result<Caller, AuthError> {
        self.authenticator.caller(peer, Interface::Rest, Credential::None).await
    }
}

#[tokio::test]
async fn only_own_processes_need_no_credential() {
    let keys = Keys::new();
    let caller = keys.without(&Peer::Own).await.unwrap();
    assert_eq!(caller.principal.name, format!("uid:{}", geteuid().as_raw()));
    assert!(caller.is_operator && caller.principal.groups.contains(&format!("gid:{}", getegid().as_raw())));
    let untrusted = Peer::Untrusted("another user".to_owned());
    assert!(matches!(keys.without(&untrusted).await, Err(AuthError::Untrusted(reason)) if reason == "another user"));
    assert!(matches!(keys.without(&REMOTE).await, Err(AuthError::Missing)));
}

#[tokio::test]
async fn holder_of_a_key_is_a_service_and_no_operator_whichever_way_it_comes() {
    let keys = Keys::new();
    let key = keys.create(|record| record.capabilities = Some(vec![label("fs.read.v1")])).await;
    for peer in [REMOTE, Peer::Own, Peer::Untrusted("a container".to_owned())] {
        let caller = keys.caller(&peer, key.secret_text()).await.unwrap();
        assert_eq!((caller.principal.id().as_str(), caller.transport), ("service:ci", "rest"));
        assert_eq!((caller.address, caller.is_operator), (peer.address(), false));
        assert_eq!(caller.principal.groups, ["builders"]);
        assert_eq!(caller.scope.capabilities.as_ref().unwrap().iter().collect::<Vec<_>>(), ["fs.read.v1"]);
    }
    let by_grpc = keys.authenticator.caller(&REMOTE, Interface::Grpc, Credential::Bearer(key.secret_text())).await;
    assert!(matches!(by_grpc, Err(AuthError::Interface("grpc"))), "{by_grpc:?}");
}

#[tokio::test]
async fn refusals_of_keys_do_not_tell_their_causes() {
    let keys = Keys::new();
    let now = Timestamp::now();
    let revoked = keys.create(|record| record.revoked = Some(now)).await;
    let expired = keys.create(|record| record.expires = Some(now)).await;
    let unknown = ApiKey::random().unwrap();
    let good = keys.create(|_| {}).await;
    // A valid form with the identifier of another key.
    let swapped = keys.create(|record| record.digest = good.digest()).await;
    let texts = [revoked.secret_text(), expired.secret_text(), unknown.secret_text(), swapped.secret_text(), "agentd_", ""];
    for text in texts {
        let error = keys.caller(&REMOTE, text).await.unwrap_err();
        assert!(matches!(error, AuthError::Invalid), "{error:?}");
        assert!(!text.starts_with("agentd_0") || !format!("{error} {error:?}").contains(text));
    }
    assert!(matches!(
        keys.authenticator.caller(&Peer::Own, Interface::Rest, Credential::Malformed).await,
        Err(AuthError::Invalid)
    ));
}

#[tokio::test]
async fn failures_of_an_address_keep_unknown_keys_out_and_no_known_one() {
    let keys = Keys::new();
    let (known, other) = (keys.create(|_| {}).await, keys.create(|_| {}).await);
    keys.caller(&REMOTE, known.secret_text()).await.unwrap();
    for _ in 0..MAX_FAILURES {
        assert!(matches!(keys.caller(&REMOTE, "agentd_wrong").await, Err(AuthError::Invalid)));
    }
    assert!(matches!(keys.caller(&REMOTE, "agentd_wrong").await, Err(AuthError::TooMany(_))));
    assert!(matches!(keys.caller(&REMOTE, other.secret_text()).await, Err(AuthError::TooMany(_))));
    keys.caller(&REMOTE, known.secret_text()).await.unwrap();
    keys.caller(&Peer::Remote(Ipv4Addr::new(192, 0, 2, 2).into(), None), other.secret_text()).await.unwrap();
    // A revocation by another process holds at once, also for a key that was remembered.
    keys.state.revoke_api_key(known.id(), Timestamp::now()).await.unwrap();
    assert!(matches!(keys.caller(&REMOTE, known.secret_text()).await, Err(AuthError::Invalid)));
    assert!(matches!(keys.caller(&REMOTE, known.secret_text()).await, Err(AuthError::TooMany(_))));
}

#[tokio::test]
async fn use_of_a_key_is_recorded() {
    let keys = Keys::new();
    let key = keys.create(|_| {}).await;
    keys.caller(&REMOTE, key.secret_text()).await.unwrap();
    while keys.state.api_key(key.id()).await.unwrap().unwrap().last_used.is_none() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn token_restricts_its_key_and_ends_with_it() {
    let keys = Keys::new();
    let key = keys
        .create(|record| {
            record.capabilities = Some(vec![label("a.v1"), label("b.v1")]);
            record.transports = vec![label("rest"), label("grpc")];
        })
        .await;
    let names = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    let narrow =
        Caveats { capabilities: names(&["b.v1", "c.v1"]), transports: names(&["rest", "mcp-http"]), ..Caveats::default() };
    let token = restrict(key.secret_text(), &narrow).unwrap();
    let caller = keys.caller(&REMOTE, &token).await.unwrap();
    assert_eq!((caller.principal.id().as_str(), caller.is_operator), ("service:ci", false));
    assert_eq!(caller.scope.capabilities.as_ref().unwrap().iter().collect::<Vec<_>>(), ["b.v1"], "what both permit");
    for interface in [Interface::Grpc, Interface::Mcp, Interface::Metrics] {
        let refused = keys.authenticator.caller(&REMOTE, interface, Credential::Bearer(&token)).await;
        assert!(matches!(refused, Err(AuthError::Interface(_))), "{refused:?}");
    }
    let places = |paths: &[&str]| Caveats { workspaces: Some(paths.iter().map(Into::into).collect()), ..Caveats::default() };
    let further = restrict(&restrict(&token, &places(&["/srv"])).unwrap(), &places(&["/srv/a", "/etc"])).unwrap();
    assert_eq!(keys.caller(&REMOTE, &further).await.unwrap().scope.workspaces.len(), 2);
    let now = Timestamp::now().micros() / 1_000_000;
    for (expires, is_valid) in [(now + 600, true), (now, false), (0, false)] {
        let token = restrict(&token, &Caveats { expires: Some(expires), ..Caveats::default() }).unwrap();
        // A later block does not extend an earlier one.
        let later = restrict(&token, &Caveats { expires: Some(u64::MAX), ..Caveats::default() }).unwrap();
        for text in [&token, &later] {
            assert_eq!(keys.caller(&REMOTE, text).await.is_ok(), is_valid, "{expires}");
        }
    }
    let other = restrict(ApiKey::random().unwrap().secret_text(), &Caveats::default()).unwrap();
    assert!(matches!(keys.caller(&REMOTE, &other).await, Err(AuthError::Invalid)));
    keys.state.revoke_api_key(key.id(), Timestamp::now()).await.unwrap();
    assert!(matches!(keys.caller(&REMOTE, &token).await, Err(AuthError::Invalid)));
}
