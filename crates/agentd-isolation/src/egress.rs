//! The network of granted hosts ([`Network::Egress`]): what follows from the grants, and the gateway of a sandbox.

mod inspection;

use crate::blocking::blocking;
use agentd_core::{
    Control, ControlError, IsolationError, Network, NetworkFlow, NetworkLog, NetworkVerdict, PlanLine, SandboxSpec,
};
use agentd_egress::{
    Gateway, GatewayConfig, GatewaySockets, NetGrant, NetGrants,
    gateway::enforceable,
    grant::{Carried, Hosts},
    http::HeadError,
    limits::FlowLimits,
    name::HostName,
    proxy::{ProxyServer, Upstream},
    record::{FlowEnd, FlowKind, FlowLog, FlowRecord, FlowRefusal, FlowVerdict},
};
use agentd_kernel::{gateway::GatewaySocket, mount::trust::TrustPlan};
use inspection::Inspected;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    collections::BTreeSet,
    ffi::OsString,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// The number of different ports that can be granted. A supervisor sends a socket for each port and family in one message.
const MAX_PORTS: usize = 24;

/// The time for connections to end by themselves after their programs: data of a program that has ended still arrives.
const LAST_FLOWS: Duration = Duration::from_secs(2);

/// Connections at once for which the descriptors must suffice.
const FEWEST_FLOWS: usize = 16;

/// Returns the grants of a network; `None` if the network is of another kind.
///
/// # Errors
/// [`IsolationError::Invalid`] for a text that is not a grant, and for grants that cannot be enforced.
fn grants(network: &Network) -> Result<Option<NetGrants>, IsolationError> {
    let Network::Egress(texts) = network else { return Ok(None) };
    let grants = texts.iter().map(|text| text.parse()).collect::<Result<Vec<NetGrant>, _>>().map_err(|error| refused(&error))?;
    let grants: NetGrants = grants.into_iter().collect();
    enforceable(&grants, true).map_err(|error| refused(&error))?;
    let ports = ports_of(&grants).len();
    if ports > MAX_PORTS {
        return Err(refused(&format!("{ports} different ports are granted, and {MAX_PORTS} are possible — grant fewer ports")));
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

/// What a sandbox with granted hosts needs.
pub(crate) struct EgressSettings {
    gateway: GatewayConfig,
    /// The trust stores of the payload, if its TLS is inspected.
    pub(crate) trust: Option<TrustPlan>,
    environment: Vec<(OsString, OsString)>,
}

/// Returns what the network of this spec needs; `None` if it is not that of granted hosts.
///
/// # Errors
/// As for [`grants`], for a proxy in the environment that the gateway cannot use, and for secrets that no request could use.
pub(crate) fn settings(spec: &SandboxSpec) -> Result<Option<EgressSettings>, IsolationError> {
    let Some(grants) = of_spec(spec)? else { return Ok(None) };
    let inspected = inspection::prepare(&spec.secrets, &grants)?;
    let (inspection, trust, environment) = match inspected {
        Some(Inspected { inspection, trust, environment }) => (Some(inspection), Some(trust), environment),
        None => (None, None, Vec::new()),
    };
    let (upstream, deny_reason) = (upstream()?, spec.deny_reason.clone());
    let gateway = GatewayConfig { upstream, limits: limits(), inspection, deny_reason, ..GatewayConfig::new(grants) };
    Ok(Some(EgressSettings { gateway, trust, environment }))
}

/// Returns the grants of a spec; `None` if the network is of another kind, which has no place for secrets.
fn of_spec(spec: &SandboxSpec) -> Result<Option<NetGrants>, IsolationError> {
    let grants = grants(&spec.network)?;
    match spec.secrets.first() {
        Some(secret) if grants.is_none() => Err(IsolationError::Invalid {
            what: format!("secret {}", secret.target),
            reason: "secrets need a network of granted hosts — grant the host (--net allow=HOST)".to_owned(),
        }),
        _ => Ok(grants),
    }
}

/// Returns true if requests inside of TLS must be known for the grant.
fn wanted(grant: &NetGrant) -> bool {
    grant.carried == Carried::Tls && grant.request.is_some()
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

/// Returns the bounds of one gateway, with as many connections as the descriptors that this process may open suffice for.
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

/// Raises the number of descriptors that this process may open, as far as permitted, so that a gateway carries as many
/// connections as its bounds allow. Starts the launcher first, so that the limits of commands remain the caller's.
///
/// # Errors
/// The launcher could not be started.
pub fn raise_descriptor_limit() -> Result<(), IsolationError> {
    drop(crate::launcher::get()?);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // Without it, a gateway has fewer connections at once.
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).ok();
    }
    Ok(())
}

/// Describes what the network of a spec grants.
///
/// # Errors
/// As for [`settings`].
pub(crate) fn describe(spec: &SandboxSpec) -> Result<Vec<PlanLine>, IsolationError> {
    let Some(grants) = of_spec(spec)? else { return Ok(Vec::new()) };
    let mut lines: Vec<_> = grants.iter().map(|grant| PlanLine::new("allowed", described(grant))).collect();
    lines.extend(inspection::describe(&spec.secrets, &grants)?);
    lines.push(PlanLine::new("refused", "every other name, address and port; UDP; TLS for another name"));
    let rule = "private, loopback, link-local and other special addresses only if a grant names their range";
    lines.push(PlanLine::new("addresses", rule));
    let way = match upstream()? {
        Upstream::Proxy(_) => "through the host's proxy (HTTPS_PROXY), by address",
        _ => "from this host, without a proxy",
    };
    lines.push(PlanLine::new("gateway", way));
    Ok(lines)
}

fn described(grant: &NetGrant) -> String {
    let examined = match (&grant.hosts, grant.carried) {
        _ if wanted(grant) => "requests inside of TLS",
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
    environment: Vec<(OsString, OsString)>,
}

impl SandboxGateway {
    /// Starts a gateway that serves the sockets.
    ///
    /// # Errors
    /// The reason why it does not start. The sockets are closed then.
    pub(crate) async fn start(
        sockets: Vec<(GatewaySocket, OwnedFd)>,
        EgressSettings { gateway, environment, .. }: EgressSettings,
    ) -> Result<Self, IsolationError> {
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
        // Not on the runtime: a failed start ends an event loop, for which it waits.
        let gateway = blocking(move || Ok(Gateway::start(taken, gateway).map_err(failed)?)).await?;
        let log = gateway.log().clone();
        Ok(Self { running: Mutex::new(Some(gateway)), log, environment })
    }

    /// Ends all connections, and waits until they are recorded. Those whose programs have ended get a moment to end by
    /// themselves.
    ///
    /// # Errors
    /// [`IsolationError::Internal`] if the thread that waits failed.
    pub(crate) async fn stop(&self) -> Result<(), IsolationError> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(gateway) = running else { return Ok(()) };
        gateway.idle(LAST_FLOWS).await;
        blocking(move || {
            drop(gateway);
            Ok(())
        })
        .await
    }

    /// Returns the variables that commands need.
    pub(crate) fn environment(&self) -> &[(OsString, OsString)] {
        &self.environment
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
        request: record.request.map(|line| format!("{} {}", line.method, line.path)),
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

/// Returns the grant that would allow a refused flow. A refusal that protects the meaning of a grant has none.
fn missing(record: &FlowRecord) -> Option<String> {
    // A name such as `_http._tcp.a.example` is that of a service, not of a host.
    let name =
        || record.name.as_ref().and_then(|name| name.parse::<HostName>().ok()).filter(|name| !name.as_str().starts_with('_'));
    let port = record.wanted.port();
    let address = |address| match address {
        std::net::IpAddr::V4(address) => format!("{address}:{port}"),
        std::net::IpAddr::V6(address) => format!("[{address}]:{port}"),
    };
    let FlowVerdict::Refused(refusal) = &record.verdict else { return None };
    match refusal {
        FlowRefusal::Request(HeadError::NotAllowed) => {
            let (request, name) = (record.request.as_ref()?, name()?);
            let grant = format!("{name}:{port}/{}:{}", request.method, request.path.replace(',', "%2C"));
            // A path that was cut off, or that has characters of patterns, is not offered.
            let exact = |grant: &NetGrant| {
                let rule = grant.request.as_ref();
                rule.is_some_and(|rule| rule.allows(&request.method, request.path.as_bytes()) == Ok(true))
            };
            let short = request.path.len() < 200 && !request.path.contains('*');
            grant.parse().ok().filter(|grant| short && exact(grant)).map(|grant: NetGrant| grant.to_string())
        }
        FlowRefusal::NameNotGranted => name().map(|name| name.to_string()),
        FlowRefusal::NotGranted => Some(name().map_or_else(|| address(record.wanted.ip()), |name| format!("{name}:{port}"))),
        FlowRefusal::Special { address: refused, .. } => Some(address(*refused)),
        _ => None,
    }
}
