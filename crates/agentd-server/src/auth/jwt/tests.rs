use super::*;
use data_encoding::BASE64URL_NOPAD;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt as _};

const ISSUER: &str = "https://id.example";

struct Signer {
    folder: tempfile::TempDir,
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

impl Signer {
    fn new() -> Self {
        let random = SystemRandom::new();
        let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let signer = Self {
            folder: tempfile::tempdir().unwrap(),
            ec: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ec.as_ref(), &random).unwrap(),
            ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap(),
        };
        signer.write(&["ec", "ed"]);
        signer
    }

    /// Writes the set of keys, with these identifiers for the two keys.
    fn write(&self, [ec, ed]: &[&str; 2]) {
        let point = self.ec.public_key().as_ref();
        let encoded = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        let keys = json!({ "keys": [
            { "kty": "EC", "crv": "P-256", "x": encoded(&point[1..33]), "y": encoded(&point[33..]), "kid": ec, "use": "sig" },
            { "kty": "OKP", "crv": "Ed25519", "x": encoded(self.ed.public_key().as_ref()), "kid": ed, "alg": "EdDSA" },
        ] });
        let path = self.folder.path().join("keys.json");
        fs::write(&path, keys.to_string()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    }

    fn issuer(&self) -> JwtIssuer {
        let keys = self.folder.path().join("keys.json");
        JwtIssuer::load(JwtSettings { issuer: ISSUER.to_owned(), audience: "agentd".to_owned(), keys }).unwrap()
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = match header["alg"].as_str() {
            Some("EdDSA") => self.ed.sign(message.as_bytes()).as_ref().to_vec(),
            _ => self.ec.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec(),
        };
        format!("{message}.{}", BASE64URL_NOPAD.encode(&signature))
    }
}

fn seconds() -> u64 {
    Timestamp::now().micros() / 1_000_000
}

fn claims(change: &Value) -> Value {
    let mut claims = json!({ "iss": ISSUER, "sub": "alice", "aud": "agentd", "exp": seconds() + 600 });
    for (name, value) in change.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

#[test]
fn token_names_a_user_of_its_issuer() {
    let signer = Signer::new();
    for header in [json!({ "alg": "ES256", "kid": "ec" }), json!({ "alg": "EdDSA", "kid": "ed", "typ": "at+jwt" })] {
        let token =
            signer.token(&header, &claims(&json!({ "aud": ["other", "agentd"], "groups": ["builders"], "nbf": seconds() })));
        let principal = signer.issuer().principal(&token, Timestamp::now()).unwrap();
        assert_eq!(principal.id(), "user:https://id.example#alice");
        assert_eq!(principal.groups, ["https://id.example#builders"]);
    }
}

#[test]
fn token_with_wrong_claims_is_refused() {
    let signer = Signer::new();
    let (now, week) = (seconds(), 7 * 24 * 3600);
    for (change, problem) in [
        (json!({ "exp": now - 31 }), "expired"),
        (json!({ "exp": null }), "malformed"),
        (json!({ "exp": "tomorrow" }), "malformed"),
        (json!({ "exp": now + week }), "more than a day"),
        (json!({ "exp": 1e300 }), "missing"),
        (json!({ "exp": -1 }), "missing"),
        (json!({ "nbf": now + 60 }), "not valid yet"),
        (json!({ "nbf": "later" }), "malformed"),
        (json!({ "aud": "agentd2" }), "another audience"),
        (json!({ "aud": ["a", "b"] }), "another audience"),
        (json!({ "aud": [] }), "another audience"),
        (json!({ "aud": null }), "missing"),
        (json!({ "iss": "https://id.example.evil" }), "another issuer"),
        (json!({ "iss": [ISSUER, "https://evil.example"] }), "malformed"),
        (json!({ "iss": null }), "malformed"),
        (json!({ "sub": null }), "malformed"),
        (json!({ "sub": "" }), "no name"),
        (json!({ "sub": "a\u{0}b" }), "no name"),
        (json!({ "sub": "a".repeat(600) }), "no name"),
        (json!({ "groups": ["a\n"] }), "no name"),
        (json!({ "groups": vec!["g"; 65] }), "no name"),
        (json!({ "groups": "builders" }), "malformed"),
    ] {
        let token = signer.token(&json!({ "alg": "ES256", "kid": "ec" }), &claims(&change));
        let refused = signer.issuer().principal(&token, Timestamp::now()).unwrap_err();
        assert!(refused.contains(problem), "{change}: {refused}");
    }
}

#[test]
fn header_cannot_choose_another_algorithm_or_key() {
    let signer = Signer::new();
    let issuer = signer.issuer();
    let principal = |token: &str| issuer.principal(token, Timestamp::now());
    for header in [
        json!({ "alg": "none", "kid": "ec" }),
        json!({ "alg": "None", "kid": "ec" }),
        json!({ "alg": "HS256", "kid": "ec" }),
        json!({ "alg": "RS256", "kid": "ec" }),
        json!({ "alg": "ES384", "kid": "ec" }),
        json!({ "alg": "ES256", "kid": "ed" }),
        json!({ "alg": "EdDSA", "kid": "ec" }),
        json!({ "alg": "ES256", "kid": "unknown" }),
        json!({ "alg": "ES256" }),
        json!({ "alg": "ES256", "kid": "" }),
        json!({ "alg": "ES256", "kid": "ec", "crit": ["exp"], "exp": 1 }),
        json!({ "kid": "ec" }),
    ] {
        let token = signer.token(&header, &claims(&json!({})));
        assert!(principal(&token).is_err(), "{header}");
        // Without a signature at all.
        let (message, _) = token.rsplit_once('.').unwrap();
        assert!(principal(message).is_err() && principal(&format!("{message}.")).is_err(), "{header}");
    }
    // The public key as the secret of an HMAC.
    let message = signer.token(&json!({ "alg": "HS256", "kid": "ec" }), &claims(&json!({})));
    let (message, _) = message.rsplit_once('.').unwrap();
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, signer.ec.public_key().as_ref());
    let signature = BASE64URL_NOPAD.encode(ring::hmac::sign(&secret, message.as_bytes()).as_ref());
    assert!(principal(&format!("{message}.{signature}")).is_err());
}

#[test]
fn changed_cut_and_foreign_tokens_are_refused() {
    let (signer, other) = (Signer::new(), Signer::new());
    let issuer = signer.issuer();
    let header = json!({ "alg": "ES256", "kid": "ec" });
    let token = signer.token(&header, &claims(&json!({})));
    assert!(issuer.principal(&token, Timestamp::now()).is_ok());
    assert!(issuer.principal(&other.token(&header, &claims(&json!({}))), Timestamp::now()).is_err());
    for at in 0..token.len() {
        assert!(issuer.principal(&token[..at], Timestamp::now()).is_err(), "cut at {at}");
    }
    let (message, signature) = token.rsplit_once('.').unwrap();
    let (head, _) = message.split_once('.').unwrap();
    let forged = BASE64URL_NOPAD.encode(claims(&json!({ "sub": "root" })).to_string().as_bytes());
    assert_eq!(issuer.principal(&format!("{head}.{forged}.{signature}"), Timestamp::now()), Err("the signature is wrong"));
    for text in ["", ".", "..", "...", "a.b.c", &format!("{token}.{token}")] {
        assert!(issuer.principal(text, Timestamp::now()).is_err(), "{text}");
    }
}

#[test]
fn keys_are_replaced_by_a_reload_and_kept_if_the_file_is_damaged() {
    let signer = Signer::new();
    let issuer = signer.issuer();
    let token = |id: &str| signer.token(&json!({ "alg": "ES256", "kid": id }), &claims(&json!({})));
    let is_good = |id: &str| issuer.principal(&token(id), Timestamp::now()).is_ok();
    signer.write(&["new", "ed"]);
    assert!(is_good("ec") && !is_good("new"));
    issuer.reload().unwrap();
    assert!(!is_good("ec") && is_good("new"));
    fs::write(signer.folder.path().join("keys.json"), "{}").unwrap();
    assert!(matches!(issuer.reload(), Err(KeySetError::Form { .. })));
    assert!(is_good("new"));
    fs::set_permissions(signer.folder.path().join("keys.json"), fs::Permissions::from_mode(0o666)).unwrap();
    assert!(matches!(issuer.reload(), Err(KeySetError::Read(_))));
}
