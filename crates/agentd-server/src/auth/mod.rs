//! Authenticates the callers of requests.

mod peer;

pub use peer::Peer;

use crate::caller::Caller;
use agentd_policy::{PolicyPrincipal, PrincipalKind};

/// The reason why a caller is not authenticated. The texts do not tell whether a credential exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The request has no credential, and the connection needs one.
    #[error("the request has no credential — send an API key in the header 'Authorization: Bearer KEY'")]
    Missing,
}

/// Authenticates the callers of requests.
#[derive(Debug)]
pub struct Authenticator {
    /// The user who runs the daemon.
    own: u32,
}

impl Authenticator {
    /// Returns an authenticator for the daemon of this process.
    pub fn new() -> Self {
        Self { own: rustix::process::geteuid().as_raw() }
    }

    /// Returns the caller of a request. `credential` is that of the header `Authorization: Bearer`.
    ///
    /// # Errors
    /// [`AuthError`].
    pub async fn caller(&self, peer: &Peer, credential: Option<&str>, transport: &'static str) -> Result<Caller, AuthError> {
        match (peer, credential) {
            (Peer::Local { uid, gids }, None) => Ok(Caller {
                principal: PolicyPrincipal {
                    kind: PrincipalKind::User,
                    name: format!("uid:{uid}"),
                    groups: gids.iter().map(|gid| format!("gid:{gid}")).collect(),
                    acts_for: None,
                },
                transport,
                address: None,
                is_operator: *uid == self.own,
            }),
            _ => Err(AuthError::Missing),
        }
    }
}

impl Default for Authenticator {
    fn default() -> Self {
        Self::new()
    }
}
