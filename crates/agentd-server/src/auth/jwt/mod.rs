//! JSON Web Tokens of one issuer (RFC 7519), as credentials.
//!
//! The identifier in the header selects a key, and the key determines the algorithm. Issuer, audience, subject and expiry are
//! required. A token names the user `ISSUER#SUBJECT`, so that no issuer can name a user of this host.

mod key_set;
mod signatures;

pub use key_set::KeySetError;

use agentd_policy::{PolicyPrincipal, PrincipalKind};
use agentd_records::{Label, Timestamp};
use jsonwebtoken::{Validation, decode, decode_header, errors::ErrorKind};
use key_set::KeySet;
use serde::Deserialize;
use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

/// The difference between the clocks of issuer and daemon that is allowed, in seconds.
const LEEWAY: u64 = 30;

/// The longest time for which a token may still be valid, in seconds. A token cannot be revoked.
const MAX_VALIDITY: u64 = 24 * 60 * 60;

/// The most groups of a token.
const MAX_GROUPS: usize = 64;

/// The issuer whose tokens are credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtSettings {
    /// The claim `iss`: a URL.
    pub issuer: String,
    /// The value that the claim `aud` must have or contain.
    pub audience: String,
    /// The file with the public keys of the issuer.
    pub keys: PathBuf,
}

/// Verifies the tokens of one issuer. Clones share the keys, which can be replaced.
#[derive(Debug, Clone)]
pub struct JwtIssuer {
    settings: Arc<JwtSettings>,
    keys: Arc<RwLock<Arc<KeySet>>>,
}

/// The claims that are used.
#[derive(Deserialize)]
struct Claims {
    /// A list of issuers, which the library would accept, has another type.
    iss: String,
    sub: String,
    exp: f64,
    #[serde(default)]
    groups: Vec<String>,
}

impl JwtIssuer {
    /// Reads the keys of the issuer.
    ///
    /// # Errors
    /// [`KeySetError`].
    pub fn load(settings: JwtSettings) -> Result<Self, KeySetError> {
        signatures::use_ring();
        let keys = Arc::new(RwLock::new(Arc::new(KeySet::load(&settings.keys)?)));
        Ok(Self { settings: Arc::new(settings), keys })
    }

    /// Reads the keys again. If they cannot be used, the earlier ones stay.
    ///
    /// # Errors
    /// [`KeySetError`].
    pub fn reload(&self) -> Result<(), KeySetError> {
        let keys = Arc::new(KeySet::load(&self.settings.keys)?);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    /// Returns the principal that a token names.
    ///
    /// # Errors
    /// Why the token is refused, for the log. The client does not learn it.
    pub(super) fn principal(&self, token: &str, now: Timestamp) -> Result<PolicyPrincipal, &'static str> {
        let header = decode_header(token).map_err(|_| "not a JWT, or an unknown algorithm")?;
        if header.crit.is_some() {
            return Err("the token has extensions");
        }
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner).clone();
        let id = header.kid.ok_or("the token names no key")?;
        let (algorithm, key) = keys.find(&id).ok_or("the token names an unknown key")?;
        let mut validation = Validation::new(*algorithm);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_audience(&[&self.settings.audience]);
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        let claims = decode::<Claims>(token, key, &validation).map_err(|error| problem(error.kind()))?.claims;
        let latest = now.plus_seconds(MAX_VALIDITY + LEEWAY).micros() / 1_000_000;
        // Until the year 2106.
        if claims.exp.is_nan() || claims.exp > f64::from(u32::try_from(latest).unwrap_or(u32::MAX)) {
            return Err("the token is valid for more than a day");
        }
        self.named(&claims).ok_or("the subject or a group is no name of at most 512 bytes, or there are too many groups")
    }

    fn named(&self, claims: &Claims) -> Option<PolicyPrincipal> {
        let name = |text: &str| {
            let name = format!("{}#{text}", self.settings.issuer);
            // Records contain the name after the kind of the principal.
            (!text.is_empty() && Label::try_from(format!("user:{name}")).is_ok()).then_some(name)
        };
        if claims.iss != self.settings.issuer || claims.groups.len() > MAX_GROUPS {
            return None;
        }
        let groups = claims.groups.iter().map(|group| name(group)).collect::<Option<_>>()?;
        Some(PolicyPrincipal { kind: PrincipalKind::User, name: name(&claims.sub)?, groups, acts_for: None })
    }
}

fn problem(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidAudience => "the token is for another audience",
        ErrorKind::InvalidIssuer => "the token has another issuer",
        ErrorKind::InvalidAlgorithm => "the algorithm is not that of the key",
        ErrorKind::MissingRequiredClaim(_) => "a required claim is missing",
        ErrorKind::InvalidSignature => "the signature is wrong",
        _ => "the token is malformed",
    }
}

#[cfg(test)]
mod tests;
