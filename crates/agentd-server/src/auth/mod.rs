//! Authenticates the callers of requests.
//!
//! 1. A request with a credential is made by the holder of that credential, whichever way it came. An API key or a certificate
//!    names a service, and a JSON Web Token a user of its issuer. A key or a token counts more than a certificate.
//! 2. A request without one is made by the user who runs the daemon, if it came by the daemon's Unix socket.
//! 3. Every other request is refused. The refusal is the same for unknown, wrong, revoked and expired keys.

mod api_key;
mod certificate;
mod credential;
mod failures;
mod interface;
mod jwt;
mod keys;
mod peer;
mod token;

pub use api_key::{ApiKey, InvalidApiKey};
pub use certificate::{ClientAuthorities, ClientCertificate};
pub use credential::Credential;
pub use interface::{Interface, USUAL_INTERFACES};
pub use jwt::{JwtIssuer, JwtSettings, KeySetError};
pub use keys::KeyStores;
pub use peer::{FirstAuthentication, Peer};
pub use token::{Caveats, RestrictError, public_key, restrict};

use crate::caller::{Caller, CallerScope};
use agentd_policy::{PolicyPrincipal, PrincipalKind};
use agentd_records::Timestamp;
use agentd_state::{ApiKeyRecord, StateError};
use keys::{ApiKeys, KeyFailure};
use rustix::{
    io::Errno,
    process::{getegid, geteuid, getgroups},
};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

/// The reason why a request has no caller.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The process at the other end is not trusted.
    #[error("{0}")]
    Untrusted(String),
    /// The request has no credential.
    #[error("the request has no credential — send an API key: Authorization: Bearer KEY")]
    Missing,
    /// The credential is not valid. The text is the same for all causes.
    #[error("the credential is not valid — use an API key or a token that is neither revoked nor expired")]
    Invalid,
    /// The address has sent too many credentials that are not valid.
    #[error("too many credentials of this address were not valid — try again in {} s", .0.as_secs().saturating_add(1))]
    TooMany(Duration),
    /// The credential may not be used by this interface.
    #[error("the credential may not be used by the transport {0} — use an API key that was created with --transport {0}")]
    Interface(&'static str),
    /// The keys cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Authenticates the callers of requests.
#[derive(Debug)]
pub struct Authenticator {
    /// The user who runs the daemon.
    own: PolicyPrincipal,
    keys: ApiKeys,
    issuer: Option<JwtIssuer>,
}

impl Authenticator {
    /// Returns an authenticator for the user who runs this process, for the holders of the keys in a store, and for those of the
    /// tokens of an issuer.
    ///
    /// # Errors
    /// The kernel does not return the groups of this process.
    pub fn new(state: KeyStores, issuer: Option<JwtIssuer>) -> Result<Self, Errno> {
        let numbers: BTreeSet<u32> = getgroups()?.into_iter().chain([getegid()]).map(|group| group.as_raw()).collect();
        let groups = numbers.into_iter().map(|number| format!("gid:{number}")).collect();
        let name = format!("uid:{}", geteuid().as_raw());
        let own = PolicyPrincipal { kind: PrincipalKind::User, name, groups, acts_for: None };
        Ok(Self { own, keys: ApiKeys::new(state), issuer })
    }

    /// Returns the caller of a request that `peer` has sent to an interface.
    ///
    /// # Errors
    /// [`AuthError`].
    pub async fn caller(&self, peer: &Peer, interface: Interface, credential: Credential<'_>) -> Result<Caller, AuthError> {
        let address = peer.address();
        let text = match (credential, peer) {
            (Credential::Bearer(text), _) => text,
            (Credential::Malformed, _) => return Err(self.failed(address, "no bearer token")),
            (Credential::None, Peer::Own) => return Ok(self.own_caller(interface)),
            (Credential::None, Peer::Untrusted(reason)) => return Err(AuthError::Untrusted(reason.clone())),
            (Credential::None, Peer::Remote(_, None)) => return Err(AuthError::Missing),
            (Credential::None, Peer::Remote(_, Some(certificate))) => return self.certified(certificate, interface, address),
        };
        match &self.issuer {
            Some(issuer) if !is_own_form(text) => self.issued(issuer, text, interface, address),
            _ => {
                let (record, caveats) = self.keys.verify(text, address).await?;
                holder(record, caveats, interface, address)
            }
        }
    }

    /// Returns the service that a certificate names.
    fn certified(
        &self,
        certificate: &ClientCertificate,
        interface: Interface,
        address: Option<IpAddr>,
    ) -> Result<Caller, AuthError> {
        let name = certificate.service().map_err(|problem| self.failed(address, problem))?;
        let principal = PolicyPrincipal { kind: PrincipalKind::Service, name, groups: Vec::new(), acts_for: None };
        unrestricted(principal, interface, address)
    }

    /// Returns the user that a token names. Tokens are examined whatever happened before at their address, because each is new.
    fn issued(&self, issuer: &JwtIssuer, text: &str, interface: Interface, address: Option<IpAddr>) -> Result<Caller, AuthError> {
        let principal = issuer.principal(text, Timestamp::now()).map_err(|problem| self.failed(address, problem))?;
        unrestricted(principal, interface, address)
    }

    /// Counts and logs a failure, unless there were too many at the address.
    fn failed(&self, address: Option<IpAddr>, problem: &str) -> AuthError {
        match self.keys.wait(address) {
            Some(wait) => AuthError::TooMany(wait),
            None => self.keys.failed(address, problem, None).into(),
        }
    }

    fn own_caller(&self, interface: Interface) -> Caller {
        let transport = match interface {
            Interface::Mcp => interface.word(),
            Interface::Rest | Interface::Grpc | Interface::Metrics => "local-socket",
        };
        Caller { principal: self.own.clone(), transport, address: None, is_operator: true, scope: Arc::default() }
    }
}

/// Returns a caller whose credential has no restrictions of its own.
fn unrestricted(principal: PolicyPrincipal, interface: Interface, address: Option<IpAddr>) -> Result<Caller, AuthError> {
    if !USUAL_INTERFACES.contains(&interface) {
        return Err(AuthError::Interface(interface.word()));
    }
    Ok(Caller { principal, transport: interface.word(), address, is_operator: false, scope: Arc::default() })
}

/// Returns the holder of a valid key, or of a token that was made from it, as a caller.
fn holder(
    record: ApiKeyRecord,
    caveats: Vec<Caveats>,
    interface: Interface,
    address: Option<IpAddr>,
) -> Result<Caller, AuthError> {
    let transport = interface.word();
    let mut is_permitted = record.transports.iter().any(|permitted| permitted.to_string() == transport);
    let capabilities = record.capabilities.map(|permitted| permitted.into_iter().map(String::from).collect());
    let mut scope = CallerScope { capabilities, workspaces: Vec::new() };
    for block in caveats {
        is_permitted &= block.permits(interface);
        block.restrict(&mut scope);
    }
    if !is_permitted {
        return Err(AuthError::Interface(transport));
    }
    let groups = record.groups.into_iter().map(String::from).collect();
    let principal = PolicyPrincipal { kind: PrincipalKind::Service, name: record.name.into(), groups, acts_for: None };
    Ok(Caller { principal, transport, address, is_operator: false, scope: scope.into() })
}

/// Returns true for the beginning of keys, and of tokens that were made from keys. Issuers' tokens begin with the Base64 of a
/// brace.
fn is_own_form(text: &str) -> bool {
    text.starts_with("agentd")
}

impl From<KeyFailure> for AuthError {
    fn from(failure: KeyFailure) -> Self {
        match failure {
            KeyFailure::Invalid => Self::Invalid,
            KeyFailure::TooMany(wait) => Self::TooMany(wait),
            KeyFailure::State(error) => Self::State(error),
        }
    }
}

#[cfg(test)]
mod tests;
