//! Authenticates the callers of requests: only the user who runs the daemon, by the daemon's Unix socket.

mod peer;

pub use peer::Peer;

use crate::caller::Caller;
use agentd_policy::{PolicyPrincipal, PrincipalKind};
use rustix::{
    io::Errno,
    process::{getegid, geteuid, getgroups},
};
use std::collections::BTreeSet;

/// The reason why a caller is not authenticated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The process at the other end is not trusted.
    #[error("{0}")]
    Untrusted(String),
}

/// Authenticates the callers of requests.
#[derive(Debug)]
pub struct Authenticator {
    /// The user who runs the daemon.
    own: PolicyPrincipal,
}

impl Authenticator {
    /// Returns an authenticator for the user who runs this process.
    ///
    /// # Errors
    /// The kernel does not return the groups of this process.
    pub fn new() -> Result<Self, Errno> {
        let numbers: BTreeSet<u32> = getgroups()?.into_iter().chain([getegid()]).map(|group| group.as_raw()).collect();
        let groups = numbers.into_iter().map(|number| format!("gid:{number}")).collect();
        let name = format!("uid:{}", geteuid().as_raw());
        Ok(Self { own: PolicyPrincipal { kind: PrincipalKind::User, name, groups, acts_for: None } })
    }

    /// Returns the caller of a request that `peer` has sent by `transport`.
    ///
    /// # Errors
    /// [`AuthError`].
    pub fn caller(&self, peer: &Peer, transport: &'static str) -> Result<Caller, AuthError> {
        match peer {
            Peer::Own => Ok(Caller { principal: self.own.clone(), transport, address: None, is_operator: true }),
            Peer::Untrusted(reason) => Err(AuthError::Untrusted(reason.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_that_is_not_trusted_has_no_caller() {
        let authenticator = Authenticator::new().unwrap();
        let untrusted = Peer::Untrusted("another user".to_owned());
        assert_eq!(authenticator.caller(&untrusted, "grpc"), Err(AuthError::Untrusted("another user".to_owned())));
        let caller = authenticator.caller(&Peer::Own, "grpc").unwrap();
        assert_eq!(caller.principal.name, format!("uid:{}", geteuid().as_raw()));
        assert!(caller.is_operator && caller.principal.groups.contains(&format!("gid:{}", getegid().as_raw())));
    }
}
