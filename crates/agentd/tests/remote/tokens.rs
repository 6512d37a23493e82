//! JSON Web Tokens of an issuer that belongs to the test.

use crate::place::{Remote, answer, folder, object};
use data_encoding::BASE64URL_NOPAD;
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData as _, SigningKey as _};
use serde_json::{Value, json};
use std::{fs, path::Path, time::SystemTime};

const ISSUER: &str = "https://id.example";

struct Issuer(KeyPair);

impl Issuer {
    fn new() -> Self {
        Self(KeyPair::generate_for(&PKCS_ED25519).unwrap())
    }

    fn write(&self, root: &Path) {
        let x = BASE64URL_NOPAD.encode(self.0.der_bytes());
        let keys = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": "one", "alg": "EdDSA" }] });
        fs::write(root.join("keys.json"), keys.to_string()).unwrap();
    }

    fn token(&self, change: &Value) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let mut claims = json!({ "iss": ISSUER, "sub": "alice", "aud": "agentd", "exp": now + 600 });
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let header = json!({ "alg": "EdDSA", "kid": "one" });
        let message = [header, claims].map(|part| BASE64URL_NOPAD.encode(part.to_string().as_bytes())).join(".");
        let signature = self.0.sign(message.as_bytes()).unwrap();
        format!("{message}.{}", BASE64URL_NOPAD.encode(&signature))
    }
}

#[test]
fn token_authenticates_its_user_who_is_nobody_else() {
    let (root, issuer) = (folder(), Issuer::new());
    issuer.write(root.path());
    let remote = Remote::with(root, &["--jwt-issuer", ISSUER, "--jwt-audience", "agentd", "--jwt-keys", "keys.json"], "off");
    let (alice, bob) = (issuer.token(&json!({})), issuer.token(&json!({ "sub": "bob" })));
    let once = ["--header", "Idempotency-Key: once"];
    let ran = |token: &str| object(&remote.shell(token, "echo x >> count", &once).output().unwrap());
    assert_eq!((&ran(&alice)["duplicate"], &ran(&bob)["duplicate"]), (&json!(false), &json!(false)));
    assert_eq!(ran(&issuer.token(&json!({ "jti": "other" })))["duplicate"], true, "another token of the same user");
    let log = remote.good(&["audit", "tail", "--json", "-n", "100"]);
    assert!(log.contains("user:https://id.example#alice") && log.contains("user:https://id.example#bob"), "{log}");
    let capabilities = |token: &str| remote.get(Some(token), "/v1/capabilities", &[]).1;
    let key = remote.key("ci", &[]);
    assert_eq!((capabilities(&alice), capabilities(&key)), ("200".to_owned(), "200".to_owned()));
    assert_eq!(remote.get(Some(&alice), "/metrics", &[]).1, "403");
    let (_, status) =
        answer(&remote.post(&alice, &format!("/v1/approvals/{}", "0".repeat(32)), &json!({}), &[]).output().unwrap());
    assert_eq!(status, "403");
    let refused = remote.get(Some("agentd_wrong"), "/v1/capabilities", &[]).0;
    for change in
        [json!({ "aud": "other" }), json!({ "exp": 1 }), json!({ "iss": "https://evil.example" }), json!({ "exp": 4e9 })]
    {
        assert_eq!(
            remote.get(Some(&issuer.token(&change)), "/v1/capabilities", &[]),
            (refused.clone(), "401".to_owned()),
            "{change}"
        );
    }
    assert_eq!(capabilities(&Issuer::new().token(&json!({}))), "401", "a token of another key");
    let other = Issuer::new();
    other.write(remote.root.path());
    remote.signal("HUP");
    let messages = [remote.message(), remote.message(), remote.message()];
    assert!(messages[2].contains("JWT keys loaded"), "{messages:?}");
    let capabilities = |token: &str| remote.get(Some(token), "/v1/capabilities", &[]).1;
    assert_eq!(capabilities(&alice), "401");
    assert_eq!(capabilities(&other.token(&json!({}))), "200");
}
