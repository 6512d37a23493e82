//! The settings of a gateway, and the sockets that it takes over.

use crate::{
    grant::NetGrants,
    limits::FlowLimits,
    proxy::Upstream,
    resolve::{HostResolver, Resolve},
};
use std::{fmt, os::fd::OwnedFd, sync::Arc};

/// The settings of the gateway of one sandbox.
#[derive(Clone)]
pub struct GatewayConfig {
    /// What the sandbox may reach.
    pub grants: NetGrants,
    /// The bounds.
    pub limits: FlowLimits,
    /// The way to the destinations.
    pub upstream: Upstream,
    /// The resolver outside of the sandbox.
    pub resolver: Arc<dyn Resolve>,
}

impl GatewayConfig {
    /// Returns settings with the default bounds, without a proxy, and with the host's resolver.
    pub fn new(grants: NetGrants) -> Self {
        Self { grants, limits: FlowLimits::default(), upstream: Upstream::default(), resolver: Arc::new(HostResolver) }
    }
}

impl fmt::Debug for GatewayConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { grants, limits, upstream, resolver: _ } = self;
        f.debug_struct("GatewayConfig").field("grants", grants).field("limits", limits).field("upstream", upstream).finish()
    }
}

/// Sockets that were created in the namespace of the sandbox.
///
/// The ports are those of the grants at the time. A later grant of another port needs another listener
/// ([`Gateway::listen`](crate::Gateway::listen)).
#[derive(Debug, Default)]
pub struct GatewaySockets {
    /// Listening TCP sockets, one for each granted port and family.
    pub tcp: Vec<OwnedFd>,
    /// UDP sockets on port 53.
    pub dns_udp: Vec<OwnedFd>,
    /// Listening TCP sockets on port 53.
    pub dns_tcp: Vec<OwnedFd>,
    /// Packet sockets that see the first packet of each TCP connection, and UDP datagrams, from the network header on. They are for
    /// the record of what no socket accepts.
    pub attempts: Vec<OwnedFd>,
}
