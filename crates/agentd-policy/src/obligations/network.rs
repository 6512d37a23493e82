//! The bound on the destinations that a sandbox may reach.

use agentd_egress::NetGrant;
use std::fmt;

/// The bound on the destinations that a sandbox may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkBound(Bound);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Bound {
    /// Only these grants, none of which covers another, in the order of their texts.
    Hosts(Vec<NetGrant>),
    /// Every grant.
    AnyHost,
    /// Every grant, and the host's own network without a gateway.
    HostNetwork,
}

impl NetworkBound {
    /// Returns the bound that permits no destination.
    pub fn none() -> Self {
        Self(Bound::Hosts(Vec::new()))
    }

    /// Returns the bound that permits every host through the gateway.
    pub fn any_host() -> Self {
        Self(Bound::AnyHost)
    }

    /// Returns the bound that permits every host, and also the host's own network without a gateway.
    pub fn host_network() -> Self {
        Self(Bound::HostNetwork)
    }

    /// Returns the bound that permits only the hosts of these grants.
    pub fn hosts_of(grants: impl IntoIterator<Item = NetGrant>) -> Self {
        let mut texts: Vec<(String, NetGrant)> = grants.into_iter().map(|grant| (grant.to_string(), grant)).collect();
        texts.sort_by(|(one, _), (other, _)| one.cmp(other));
        texts.dedup_by(|(one, _), (other, _)| one == other);
        let wider = |own: &str, grant: &NetGrant| texts.iter().any(|(text, other)| text != own && other.covers(grant));
        Self(Bound::Hosts(texts.iter().filter(|(text, grant)| !wider(text, grant)).map(|(_, grant)| grant.clone()).collect()))
    }

    /// Returns the grants; `None` if every host may be granted.
    pub fn hosts(&self) -> Option<&[NetGrant]> {
        match &self.0 {
            Bound::Hosts(grants) => Some(grants),
            Bound::AnyHost | Bound::HostNetwork => None,
        }
    }

    /// Returns true if the grant is within the bound.
    pub fn permits(&self, grant: &NetGrant) -> bool {
        self.hosts().is_none_or(|hosts| hosts.iter().any(|host| host.covers(grant)))
    }

    /// Returns true if the host's own network is within the bound.
    pub fn permits_host_network(&self) -> bool {
        self.0 == Bound::HostNetwork
    }

    /// Returns what both bounds permit.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        match (&self.0, &other.0) {
            (Bound::Hosts(one), Bound::Hosts(other)) => {
                Self::hosts_of(one.iter().flat_map(|one| other.iter().filter_map(|other| one.intersection(other))))
            }
            (Bound::Hosts(_), _) | (Bound::AnyHost, Bound::HostNetwork) => self.clone(),
            (Bound::AnyHost, Bound::AnyHost) | (Bound::HostNetwork, _) | (Bound::AnyHost, Bound::Hosts(_)) => other.clone(),
        }
    }

    /// Returns the word for the kind of the bound.
    pub(crate) fn word(&self) -> &'static str {
        match &self.0 {
            Bound::Hosts(hosts) if hosts.is_empty() => "off",
            Bound::Hosts(_) => "hosts",
            Bound::AnyHost => "any",
            Bound::HostNetwork => "host-network",
        }
    }
}

/// The text of the annotation `@egress`.
impl fmt::Display for NetworkBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.hosts() {
            Some(hosts) => f.write_str(&hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
            None => f.write_str(self.word()),
        }
    }
}
