//! The public keys of an issuer of tokens: a JSON Web Key Set (RFC 7517) in a file.

use agentd_disk::{TrustError, read_trusted_file};
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse},
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    str::FromStr as _,
};

/// The most keys of a set.
const MAX_KEYS: usize = 64;

/// The reason why a set of keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeySetError {
    /// The file cannot be read, or somebody else may change it.
    #[error("JWT keys: {0}")]
    Read(#[from] TrustError),
    /// The file has another form.
    #[error("JWT keys: {path:?}: {source} — name a JSON Web Key Set (RFC 7517)")]
    Form {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
    /// A key of the set cannot be used, or none can.
    #[error("JWT keys: {path:?}: {problem}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The problem and the remedy.
        problem: &'static str,
    },
}

/// The keys of an issuer, each with the only algorithm for which it is used.
#[derive(Debug)]
pub(super) struct KeySet(BTreeMap<String, (Algorithm, DecodingKey)>);

impl KeySet {
    /// Reads a file. Keys for encryption, and those of unknown kinds, are left out.
    ///
    /// # Errors
    /// [`KeySetError`].
    pub fn load(path: &Path) -> Result<Self, KeySetError> {
        let text = read_trusted_file(path)?.text;
        let set: JwkSet = serde_json::from_str(&text).map_err(|source| KeySetError::Form { path: path.to_owned(), source })?;
        Self::of(&set).map_err(|problem| KeySetError::Unusable { path: path.to_owned(), problem })
    }

    fn of(set: &JwkSet) -> Result<Self, &'static str> {
        let mut keys = BTreeMap::new();
        for jwk in &set.keys {
            if matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_)) {
                return Err("a symmetric key — use public keys only, because whoever verifies by a symmetric key can also sign");
            }
            let Some(algorithm) = algorithm(jwk) else { continue };
            let Some(id) = jwk.common.key_id.clone().filter(|id| !id.is_empty()) else {
                return Err("a key without 'kid' — give each key an identifier");
            };
            let key = DecodingKey::from_jwk(jwk).map_err(|_| "a malformed key — export the set again")?;
            if keys.insert(id, (algorithm, key)).is_some() {
                return Err("two keys with one 'kid' — give each key its own identifier");
            }
        }
        match keys.len() {
            0 => Err("no key for signatures by RSA, P-256, P-384 or Ed25519 — add the public keys of the issuer"),
            1..=MAX_KEYS => Ok(Self(keys)),
            _ => Err("more than 64 keys — remove those that are not used any more"),
        }
    }

    /// Returns a key with its algorithm.
    pub fn find(&self, id: &str) -> Option<&(Algorithm, DecodingKey)> {
        self.0.get(id)
    }
}

/// Returns the only algorithm of a key; `None` for a key that verifies no signatures.
fn algorithm(jwk: &Jwk) -> Option<Algorithm> {
    if jwk.common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature) {
        return None;
    }
    let stated = jwk.common.key_algorithm.map(|algorithm| Algorithm::from_str(&algorithm.to_string()).ok());
    let of_kind = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => match stated {
            None => Some(Algorithm::RS256),
            Some(stated) => stated.filter(|stated| stated.family() == AlgorithmFamily::Rsa),
        },
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Some(Algorithm::ES256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => Some(Algorithm::ES384),
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Some(Algorithm::EdDSA),
        _ => None,
    }?;
    stated.is_none_or(|stated| stated == Some(of_kind)).then_some(of_kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(keys: Value) -> Result<KeySet, &'static str> {
        KeySet::of(&serde_json::from_value(json!({ "keys": keys })).unwrap())
    }

    #[test]
    fn key_has_one_algorithm_and_symmetric_keys_are_refused() {
        let point = "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4";
        let ec = |id: &str, more: Value| {
            let mut key = json!({ "kty": "EC", "crv": "P-256", "x": point, "y": point, "kid": id });
            key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            key
        };
        let set =
            of(json!([ec("a", json!({})), { "kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "r", "alg": "PS256" }])).unwrap();
        assert_eq!(set.find("a").unwrap().0, Algorithm::ES256);
        assert_eq!(set.find("r").unwrap().0, Algorithm::PS256);
        assert!(set.find("b").is_none());
        let secret = json!({ "kty": "oct", "k": "c2VjcmV0", "kid": "s" });
        assert!(of(json!([ec("a", json!({})), secret])).unwrap_err().contains("symmetric"));
        assert!(of(json!([ec("a", json!({})), ec("a", json!({}))])).unwrap_err().contains("one 'kid'"));
        assert!(of(json!([{ "kty": "EC", "crv": "P-256", "x": point, "y": point }])).unwrap_err().contains("without 'kid'"));
        for other in [json!({ "use": "enc" }), json!({ "alg": "RS256" }), json!({ "alg": "HS256" }), json!({ "crv": "P-521" })] {
            assert!(of(json!([ec("a", other.clone())])).unwrap_err().contains("no key"), "{other}");
        }
        assert!(of(json!([])).is_err());
    }
}
