//! The destinations that a sandbox may reach: a list of grants, and the decisions that follow from the list.
//!
//! `parse` reads the text form, `file` the file form, and `request` holds the rules on methods and paths. `suggest` finds what to
//! write instead of a text that is no grant. `check` decides about
//! one destination before anything runs. A decision is a function of the grants and the destination; this module opens no socket.

mod check;
mod error;
mod file;
mod intersection;
mod parse;
mod request;
mod suggest;
#[cfg(test)]
mod tests;

pub use check::{Destination, DestinationError, GrantRefusal};
pub use error::GrantError;
pub use file::{GrantFile, GrantFileError, MAX_FILE};
pub use request::{PathError, RequestRule};

use crate::{
    address::{self, SpecialBlock, SpecialKind},
    name::{HostName, NamePattern},
};
use ipnet::IpNet;
use std::{fmt, net::IpAddr, str::FromStr};

/// The word in the text form of a grant that needs an approval.
const APPROVE: &str = "approve";

/// The hosts of a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hosts {
    /// Names. The address is chosen by the host's resolver.
    Names(NamePattern),
    /// Addresses.
    Range(IpNet),
}

/// The protocol of a granted port, which decides what the gateway checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Carried {
    /// TCP, whose bytes are not examined.
    Tcp,
    /// TLS over TCP. The SNI of the connection must be the granted name.
    Tls,
    /// HTTP/1 over TCP without TLS. The `Host` of each request must be the granted name.
    Http,
    /// UDP, whose datagrams are not examined.
    Udp,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// One grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetGrant {
    /// The hosts.
    pub hosts: Hosts,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub carried: Carried,
    /// True if connections wait until a user has approved the destination.
    pub approval: bool,
    /// The only request that is allowed. `None` allows all.
    pub request: Option<RequestRule>,
}

/// All grants of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetGrants(Vec<NetGrant>);

/// The access that the grants permit to one destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The grant that decides, in text form.
    pub rule: String,
    /// The protocol that must be spoken.
    pub carried: Carried,
    /// True if the connection needs the approval of a user.
    pub approval: bool,
    /// All grants that the approval concerns, in text form.
    pub approval_rule: String,
    /// The allowed requests. Empty if every request is allowed.
    pub requests: Vec<RequestRule>,
}

impl NetGrants {
    /// Returns the grants in the order in which they were written.
    pub fn iter(&self) -> impl Iterator<Item = &NetGrant> {
        self.0.iter()
    }

    /// Returns true if some grant covers the name, at any port. Other names do not exist for the sandbox.
    pub fn has_name(&self, name: &HostName) -> bool {
        self.0.iter().any(|grant| matches!(&grant.hosts, Hosts::Names(pattern) if pattern.matches(name)))
    }

    /// Returns the access over TCP to a port of the name. A grant of exactly this name takes precedence over a wildcard. Of
    /// several such grants, the first determines the protocol, and the requests of all grants with this protocol are allowed. If
    /// one of these needs an approval, every connection does.
    pub fn tcp_name(&self, name: &HostName, port: u16) -> Option<Access> {
        self.name(Transport::Tcp, name, port)
    }

    /// Returns the access to a port of the name over the transport, as for [`NetGrants::tcp_name`].
    pub fn name(&self, transport: Transport, name: &HostName, port: u16) -> Option<Access> {
        let matching = |exact: bool| {
            self.0.iter().filter(move |grant| {
                let names = matches!(&grant.hosts, Hosts::Names(of) if of.is_exact() == exact && of.matches(name));
                names && grant.port == port && grant.transport() == transport
            })
        };
        access(&mut matching(true)).or_else(|| access(&mut matching(false)))
    }

    /// Returns the access to a port of the address. Only grants of ranges count, because no name is known.
    pub fn address(&self, transport: Transport, address: IpAddr, port: u16) -> Option<Access> {
        access(&mut self.0.iter().filter(|grant| grant.has_address(transport, address, port)))
    }

    /// Checks an address to which the gateway would connect.
    ///
    /// # Errors
    /// The address is special, and no grant for this port and transport names a range within the special block of the address.
    /// `0.0.0.0/0` does not lie within such a block, so this grant permits no special address.
    pub fn check_address(&self, transport: Transport, address: IpAddr, port: u16) -> Result<(), SpecialKind> {
        address::check(address, &|address, block: SpecialBlock| {
            self.ranges(transport, address, port).any(|range| block.range.contains(&range))
        })
    }

    /// Returns true if a grant names exactly this address, or a range of loopback addresses that contains the address. Only such
    /// a grant permits an address of this host, because a wider range may contain the address by chance.
    pub fn names_own_address(&self, transport: Transport, address: IpAddr, port: u16) -> bool {
        let mut ranges = self.ranges(transport, address, port);
        ranges.any(|range| range.prefix_len() == range.max_prefix_len() || range.addr().is_loopback())
    }

    /// Returns true if a grant needs the content of TLS connections, which is available only with inspection.
    pub fn need_inspection(&self) -> Option<&NetGrant> {
        self.0.iter().find(|grant| grant.carried == Carried::Tls && grant.request.is_some())
    }

    /// Returns true if connections to some destination need an approval.
    pub fn need_approval(&self) -> bool {
        self.0.iter().any(|grant| grant.approval)
    }

    /// Returns a grant of UDP, which is not carried out of a virtual machine.
    pub fn need_datagrams(&self) -> Option<&NetGrant> {
        self.0.iter().find(|grant| grant.transport() == Transport::Udp)
    }

    /// Returns a grant of UDP by which programs could send the requests of a host over QUIC (RFC 9114), although another grant
    /// limits the requests to this host at the same port, or needs an approval. Returns the other grant too.
    pub fn bypassed(&self) -> Option<(&NetGrant, &NetGrant)> {
        let ruled = || self.0.iter().filter(|grant| grant.request.is_some() || grant.approval);
        let mut datagrams = self.0.iter().filter(|grant| grant.transport() == Transport::Udp);
        datagrams.find_map(|udp| ruled().find(|ruled| udp.port == ruled.port && udp.shares_name(ruled)).map(|ruled| (udp, ruled)))
    }

    fn ranges(&self, transport: Transport, address: IpAddr, port: u16) -> impl Iterator<Item = IpNet> {
        self.0.iter().filter(move |grant| grant.has_address(transport, address, port)).filter_map(|grant| match grant.hosts {
            Hosts::Range(range) => Some(range),
            Hosts::Names(_) => None,
        })
    }
}

fn access(matching: &mut dyn Iterator<Item = &NetGrant>) -> Option<Access> {
    let first = matching.next()?;
    let mut requests: Vec<_> = first.request.clone().into_iter().collect();
    let (mut approval, mut approval_rule) = (first.approval, first.to_string());
    for other in matching.filter(|other| other.carried == first.carried) {
        approval |= other.approval;
        approval_rule = format!("{approval_rule}, {other}");
        match (&other.request, requests.is_empty()) {
            (Some(rule), false) => requests.push(rule.clone()),
            // One of the grants allows every request.
            _ => requests.clear(),
        }
    }
    Some(Access { rule: first.to_string(), carried: first.carried, approval, approval_rule, requests })
}

impl NetGrant {
    /// Returns the transport protocol of the granted port.
    pub fn transport(&self) -> Transport {
        if self.carried == Carried::Udp { Transport::Udp } else { Transport::Tcp }
    }

    /// Returns the same grant with the condition that a user approves each destination.
    ///
    /// # Errors
    /// [`GrantError::Datagrams`] for a grant of UDP, because datagrams do not wait.
    pub fn with_approval(self) -> Result<Self, GrantError> {
        if self.transport() == Transport::Udp {
            return Err(GrantError::Datagrams { item: self.to_string() });
        }
        Ok(Self { approval: true, ..self })
    }

    fn has_address(&self, transport: Transport, address: IpAddr, port: u16) -> bool {
        let covers = self.port == port && self.transport() == transport;
        covers && matches!(self.hosts, Hosts::Range(range) if range.contains(&address))
    }

    fn shares_name(&self, other: &Self) -> bool {
        matches!((&self.hosts, &other.hosts), (Hosts::Names(own), Hosts::Names(other)) if own.overlaps(other))
    }
}

impl FromIterator<NetGrant> for NetGrants {
    fn from_iter<I: IntoIterator<Item = NetGrant>>(grants: I) -> Self {
        Self(grants.into_iter().collect())
    }
}

/// Reads grants that are separated by commas. An empty text grants nothing.
impl FromStr for NetGrants {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Self, GrantError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        text.split(',').map(|item| item.trim().parse()).collect()
    }
}

/// The text form, complete with port and protocol. Parsing it returns an equal grant.
impl fmt::Display for NetGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usual = match &self.hosts {
            Hosts::Names(pattern) => {
                write!(f, "{pattern}:{}", self.port)?;
                Carried::usual(self.port)
            }
            Hosts::Range(range) => {
                let single = range.prefix_len() == range.max_prefix_len();
                match (range, single) {
                    (IpNet::V4(range), true) => write!(f, "{}", range.addr())?,
                    (IpNet::V4(range), false) => write!(f, "{range}")?,
                    (IpNet::V6(range), true) => write!(f, "[{}]", range.addr())?,
                    (IpNet::V6(range), false) => write!(f, "[{range}]")?,
                }
                write!(f, ":{}", self.port)?;
                Carried::Tcp
            }
        };
        if self.carried != usual {
            write!(f, "/{}", self.carried.word())?;
        }
        if self.approval {
            write!(f, "/{APPROVE}")?;
        }
        self.request.as_ref().map_or(Ok(()), |request| write!(f, "/{request}"))
    }
}

impl Carried {
    /// The protocol of a port of a name, unless the grant states another.
    fn usual(port: u16) -> Self {
        match port {
            443 => Self::Tls,
            80 => Self::Http,
            _ => Self::Tcp,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Udp => "udp",
        }
    }
}
