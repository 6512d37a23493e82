//! The settings of a gateway, and the sockets that it takes over.

use crate::{
    grant::NetGrants,
    guest::GuestPort,
    inspect::Inspection,
    limits::FlowLimits,
    proxy::Upstream,
    resolve::{HostResolver, Resolve},
    synthetic::SyntheticNames,
};
use agentd_core::NetworkLimits;
use std::{fmt, os::fd::OwnedFd, sync::Arc};

/// The settings of the gateway of one sandbox.
#[derive(Clone)]
pub struct GatewayConfig {
    /// The destinations that the sandbox may reach.
    pub grants: NetGrants,
    /// The bounds.
    pub limits: FlowLimits,
    /// The limits that the user sets.
    pub network_limits: NetworkLimits,
    /// The way to the destinations.
    pub upstream: Upstream,
    /// The resolver outside of the sandbox.
    pub resolver: Arc<dyn Resolve>,
    /// Inspection of TLS. Without it, a grant with a method and path inside TLS is an error.
    pub inspection: Option<Arc<Inspection>>,
    /// A text of the operator, which is added to the reason when a request is refused.
    pub deny_reason: Option<String>,
    /// The names that already have an address. The programs in a copy of a sandbox may know such addresses.
    pub names: Option<SyntheticNames>,
}

impl GatewayConfig {
    /// Returns settings with the default bounds, without a proxy, with the host's resolver, and without inspection.
    pub fn new(grants: NetGrants) -> Self {
        Self {
            grants,
            limits: FlowLimits::default(),
            network_limits: NetworkLimits::default(),
            upstream: Upstream::default(),
            resolver: Arc::new(HostResolver),
            inspection: None,
            deny_reason: None,
            names: None,
        }
    }
}

impl fmt::Debug for GatewayConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secrets of the inspection must not be printed.
        let Self { grants, limits, network_limits, upstream, resolver: _, inspection, deny_reason, names } = self;
        f.debug_struct("GatewayConfig")
            .field("grants", grants)
            .field("limits", limits)
            .field("network_limits", network_limits)
            .field("upstream", upstream)
            .field("inspection", &inspection.is_some())
            .field("deny_reason", deny_reason)
            .field("names", names)
            .finish()
    }
}

/// Sockets that were created in the namespace of the sandbox.
///
/// There are listeners for the granted ports. A later grant of another port needs another listener
/// ([`Gateway::listen`](crate::Gateway::listen)).
#[derive(Debug, Default)]
pub struct GatewaySockets {
    /// Listening TCP sockets, one for each granted port and family.
    pub tcp: Vec<OwnedFd>,
    /// UDP sockets, one for each port that is granted with UDP and each family.
    pub udp: Vec<OwnedFd>,
    /// UDP sockets on port 53.
    pub dns_udp: Vec<OwnedFd>,
    /// Listening TCP sockets on port 53.
    pub dns_tcp: Vec<OwnedFd>,
    /// Raw sockets that receive the first packet of each TCP connection, and raw sockets that receive UDP datagrams. The gateway
    /// records the attempts that the kernel refuses from these packets.
    pub attempts: Vec<OwnedFd>,
    /// Instead of sockets: the flows that the agent of a virtual machine passes.
    pub guest: Option<Arc<GuestPort>>,
}
