//! The network of granted hosts ([`Network::Egress`]): the settings that follow from the network grants, and the gateway of a
//! sandbox.

use agentd_core::{Control, ControlError, IsolationError, Network, NetworkFlow, NetworkLog, NetworkVerdict, PlanLine};
use agentd_egress::{
    Gateway, GatewayConfig, GatewaySockets, NetGrant, NetGrants,
    gateway::enforceable,
    grant::{Carried, Hosts},
    limits::FlowLimits,
    name::HostName,
    proxy::{ProxyServer, Upstream},
    record::{FlowEnd, FlowKind, FlowLog, FlowRecord, FlowRefusal, FlowVerdict},
};
use agentd_kernel::gateway::GatewaySocket;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    collections::BTreeSet,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// The maximum number of different ports that can be granted. A supervisor sends a socket for each port and family in one
/// message.
const MAX_PORTS: usize = 24;

/// The time in which connections may end by themselves after their programs have ended, because data may still be forwarded.
const LAST_FLOWS: Duration = Duration::from_secs(2);

/// The minimum number of concurrent connections for which the descriptors must suffice.
const FEWEST_FLOWS: usize = 16;

/// Returns the network grants of a network; `None` if the network is of another kind.
///
/// # Errors
/// [`IsolationError::Invalid`] for a text that is not a network grant, and for network grants that cannot be enforced.
fn grants(network: &Network) -> Result<Option<NetGrants>, IsolationError> {
    let Network::Egress(texts) = network else { return Ok(None) };
    let grants = texts.iter().map(|text| text.parse()).collect::<Result<Vec<NetGrant>, _>>().map_err(|error| refused(&error))?;
    let grants: NetGrants = grants.into_iter().collect();
    enforceable(&grants, false).map_err(|error| refused(&error))?;
    let ports = ports_of(&grants).len();
    if ports > MAX_PORTS {
        return Err(refused(&format!("{ports} different ports are granted, the maximum is {MAX_PORTS} — grant fewer ports")));
    }
    Ok(Some(grants))
}

fn ports_of(grants: &NetGrants) -> BTreeSet<u16> {
    grants.iter().map(|grant| grant.port).collect()
}

fn refused(reason: &dyn ToString) -> IsolationError {
    IsolationError::Invalid { what: "network".to_owned(), reason: reason.to_string() }
}

/// Returns the ports at which the gateway listens in a sandbox of this network.
///
/// # Errors
/// As for [`grants`].
pub(crate) fn ports(network: &Network) -> Result<Vec<u16>, IsolationError> {
    Ok(grants(network)?.as_ref().map(ports_of).unwrap_or_default().into_iter().collect())
}

/// Returns the settings of the gateway for this network; `None` if the network needs none.
///
/// # Errors
/// As for [`grants`], and for a proxy in the environment that the gateway cannot use.
pub(crate) fn config(network: &Network) -> Result<Option<GatewayConfig>, IsolationError> {
    let Some(grants) = grants(network)? else { return Ok(None) };
    Ok(Some(GatewayConfig { upstream: upstream()?, limits: limits(), ..GatewayConfig::new(grants) }))
}

/// Returns the host's HTTP proxy, by the variables that other programs use.
fn upstream() -> Result<Upstream, IsolationError> {
    let setting = |names: [&str; 2]| names.into_iter().find_map(|name| std::env::var(name).ok().filter(|text| !text.is_empty()));
    let Some(proxy) = setting(["https_proxy", "HTTPS_PROXY"]) else { return Ok(Upstream::Direct) };
    let except = setting(["no_proxy", "NO_PROXY"]).unwrap_or_default();
    let server = ProxyServer::from_settings(&proxy, &except);
    server
        .map(Upstream::Proxy)
        .map_err(|error| IsolationError::Invalid { what: "HTTPS_PROXY".to_owned(), reason: error.to_string() })
}

/// Returns the bounds of one gateway. The number of connections is lower than the default if this process may not open enough
/// descriptors.
fn limits() -> FlowLimits {
    let mut limits = FlowLimits::default();
    // A quarter remains for the process itself.
    let most = getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most / 4 * 3).ok()).unwrap_or(usize::MAX);
    if limits.descriptors() > most {
        limits.pipes = limits.pipes.min(most / 16);
        let fixed = FlowLimits { flows: 0, ..limits.clone() }.descriptors();
        limits.flows = (most.saturating_sub(fixed) / 2).max(FEWEST_FLOWS);
    }
    limits
}

/// Raises the number of descriptors that this process may open, as far as permitted, so that a gateway can carry all connections
/// that its bounds allow. Starts the launcher first, so that the limits of commands remain the caller's.
///
/// # Errors
/// The launcher could not be started.
pub fn raise_descriptor_limit() -> Result<(), IsolationError> {
    drop(crate::launcher::get()?);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // If this fails, a gateway carries fewer concurrent connections.
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).ok();
    }
    Ok(())
}

/// Describes what a network grants.
///
/// # Errors
/// As for [`config`].
pub(crate) fn describe(network: &Network) -> Result<Vec<PlanLine>, IsolationError> {
    let Some(GatewayConfig { grants, upstream, .. }) = config(network)? else { return Ok(Vec::new()) };
    let mut lines: Vec<_> = grants.iter().map(|grant| PlanLine::new("allowed", described(grant))).collect();
    lines.push(PlanLine::new("refused", "every other name, address and port; UDP; TLS for another name"));
    let rule = "private, loopback, link-local and other special addresses only if a grant names their range";
    lines.push(PlanLine::new("addresses", rule));
    let way = match upstream {
        Upstream::Proxy(_) => "through the host's proxy (HTTPS_PROXY), by address",
        _ => "from this host, without a proxy",
    };
    lines.push(PlanLine::new("gateway", way));
    Ok(lines)
}

fn described(grant: &NetGrant) -> String {
    let examined = match (&grant.hosts, grant.carried) {
        (Hosts::Names(_), Carried::Tls) => "TLS for this name",
        (Hosts::Names(_), Carried::Http) => "HTTP/1 requests to this host",
        _ => "TCP, content not examined",
    };
    format!("{grant} ({examined})")
}

/// The gateway of one sandbox.
pub(crate) struct SandboxGateway {
    running: Mutex<Option<Gateway>>,
    log: FlowLog,
}

impl SandboxGateway {
    /// Starts a gateway that serves the sockets.
    ///
    /// # Errors
    /// The reason why the gateway does not start. The sockets are then closed.
    pub(crate) async fn start(sockets: Vec<(GatewaySocket, OwnedFd)>, config: GatewayConfig) -> Result<Self, IsolationError> {
        let mut taken = GatewaySockets::default();
        for (purpose, socket) in sockets {
            match purpose {
                GatewaySocket::Tcp => &mut taken.tcp,
                GatewaySocket::DnsTcp => &mut taken.dns_tcp,
                GatewaySocket::DnsUdp => &mut taken.dns_udp,
                GatewaySocket::Attempts => &mut taken.attempts,
            }
            .push(socket);
        }
        let failed = |error| ControlError::caused_by(Control::Network, "start the gateway", error);
        let gateway = Gateway::start(taken, config).await.map_err(failed)?;
        let log = gateway.log().clone();
        Ok(Self { running: Mutex::new(Some(gateway)), log })
    }

    /// Ends all connections, and waits until they are recorded. Connections whose programs have ended may first end by
    /// themselves, for [`LAST_FLOWS`].
    pub(crate) async fn stop(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(gateway) = running {
            gateway.idle(LAST_FLOWS).await;
            gateway.stop().await;
        }
    }

    /// Returns the queue of the flows.
    pub(crate) fn log(&self) -> Arc<dyn NetworkLog> {
        Arc::new(GatewayLog(self.log.clone()))
    }
}

/// A queue of records, as [`NetworkLog`].
struct GatewayLog(FlowLog);

impl NetworkLog for GatewayLog {
    fn next(&self, timeout: Duration) -> Option<NetworkFlow> {
        self.0.next(timeout).map(flow)
    }

    fn take_dropped(&self) -> u64 {
        self.0.take_dropped()
    }
}

fn flow(record: FlowRecord) -> NetworkFlow {
    let missing = missing(&record);
    NetworkFlow {
        started: record.started,
        lasted: record.lasted,
        name: record.name.map(|name| name.strip_suffix('.').map(str::to_owned).unwrap_or(name)),
        wanted: (record.kind != FlowKind::Dns).then_some(record.wanted),
        connected: record.connected,
        address_checked: record.address_checked,
        sent: record.sent,
        received: record.received,
        verdict: match record.verdict {
            FlowVerdict::Granted { rule, end } => NetworkVerdict::Granted { rule, cut: cut(end) },
            FlowVerdict::Refused(refusal) => NetworkVerdict::Refused { reason: refusal.to_string(), missing },
            other => NetworkVerdict::Refused { reason: format!("{other:?}"), missing },
        },
    }
}

fn cut(end: FlowEnd) -> Option<String> {
    Some(match end {
        FlowEnd::Closed => return None,
        FlowEnd::Broken(error) => error,
        FlowEnd::Unreachable(error) => format!("not reached: {error}"),
        FlowEnd::Idle => "no byte was carried for the time of the limit".to_owned(),
        FlowEnd::Revoked => "the grant was withdrawn".to_owned(),
        FlowEnd::Stopped => "the sandbox has ended".to_owned(),
        FlowEnd::Refused(refusal) => refusal.to_string(),
        other => format!("{other:?}"),
    })
}

/// Returns the network grant that would allow a refused flow. Returns `None` if the flow was refused because it did not match its
/// grant, such as another name in TLS.
fn missing(record: &FlowRecord) -> Option<String> {
    // A name such as `_http._tcp.a.example` names a service, not a host.
    let name =
        || record.name.as_ref().and_then(|name| name.parse::<HostName>().ok()).filter(|name| !name.as_str().starts_with('_'));
    let port = record.wanted.port();
    let address = |address| match address {
        std::net::IpAddr::V4(address) => format!("{address}:{port}"),
        std::net::IpAddr::V6(address) => format!("[{address}]:{port}"),
    };
    let FlowVerdict::Refused(refusal) = &record.verdict else { return None };
    match refusal {
        FlowRefusal::NameNotGranted => name().map(|name| name.to_string()),
        FlowRefusal::NotGranted => Some(name().map_or_else(|| address(record.wanted.ip()), |name| format!("{name}:{port}"))),
        FlowRefusal::Special { address: refused, .. } => Some(address(*refused)),
        _ => None,
    }
}
