//! The network of granted hosts ([`Network::Egress`]): the settings that follow from the network grants, and the gateway of a
//! sandbox.
//!
//! - `grants`, [`changed`] and `describe`: functions from network grants to values.
//! - `inspection`: the settings of a sandbox for the inspection of TLS.
//! - `trusted`: the places of the certificates that the gateway trusts.
//! - `gateway`: the gateway of a running sandbox. `machine`: the same for a virtual machine, whose agent passes the connections.
//!   `record` converts the record of a gateway into the form that callers of the sandbox read.
//! - `approvals`: the requests for approvals of hosts, for callers of the sandbox.
//! - `descriptors`: the number of connections that the gateways of this process may carry.

mod approvals;
mod descriptors;
mod gateway;
mod inspection;
mod machine;
mod record;
mod trusted;

pub use descriptors::raise_descriptor_limit;
pub(crate) use gateway::SandboxGateway;
pub use machine::{MachineGateway, no_hosts};

use agentd_core::{IsolationError, Network, PlanLine, SandboxSpec, Writable};
use agentd_egress::{
    GatewayConfig, NetGrant, NetGrants,
    gateway::enforceable,
    grant::{Carried, GrantError, Hosts, Transport},
    proxy::{ProxyServer, Upstream},
};
use agentd_kernel::{gateway::GatewayPorts, mount::trust::TrustPlan};
use inspection::Inspected;
use std::{collections::BTreeSet, ffi::OsString};

/// The maximum number of different ports that can be granted. A supervisor sends a socket for each port and family in one
/// message.
const MAX_PORTS: usize = 24;

/// Returns the network grants of a network; `None` if the network is not [`Network::Egress`].
///
/// # Errors
/// [`IsolationError::Invalid`] for a text that is not a network grant, and for network grants that cannot be enforced.
pub(crate) fn grants(network: &Network) -> Result<Option<NetGrants>, IsolationError> {
    let Network::Egress(texts) = network else { return Ok(None) };
    let grants: NetGrants = parsed(texts)?.into_iter().collect();
    enforceable(&grants, true).map_err(|error| refused(&error))?;
    let ports = ports_of(&grants).len();
    if ports > MAX_PORTS {
        return Err(refused(&format!("{ports} different ports are granted; the maximum is {MAX_PORTS} — grant fewer ports")));
    }
    Ok(Some(grants))
}

fn parsed(texts: &[String]) -> Result<Vec<NetGrant>, IsolationError> {
    texts.iter().map(|text| text.parse()).collect::<Result<_, GrantError>>().map_err(|error| refused(&error))
}

/// Returns the network of a named sandbox without the network grants in `revoke`, and with the network grants in `allow`. Each
/// network grant of the result states its port, and occurs once.
///
/// # Errors
/// [`IsolationError::Invalid`] for a network without granted hosts, a text that is not a network grant, and network grants that
/// cannot be enforced in a named sandbox. The same error is returned if `network` lacks a network grant in `revoke`.
pub fn changed(network: &Network, allow: &[String], revoke: &[String]) -> Result<Network, IsolationError> {
    let Network::Egress(texts) = network else {
        return Err(refused(&"the sandbox was created without granted hosts — create one with --net allow= or --net log"));
    };
    let (mut grants, revoke) = (parsed(texts)?, parsed(revoke)?);
    if let Some(unknown) = revoke.iter().find(|revoked| !grants.contains(revoked)) {
        let known: Vec<_> = grants.iter().map(ToString::to_string).collect();
        let remedy = match known.join(", ") {
            none if none.is_empty() => "omit --revoke, because the sandbox has no network grants".to_owned(),
            known => format!("revoke one of its network grants: {known}"),
        };
        return Err(refused(&format!("the sandbox has no network grant {unknown} — {remedy}")));
    }
    grants.retain(|grant| !revoke.contains(grant));
    for grant in parsed(allow)? {
        if !grants.contains(&grant) {
            grants.push(grant);
        }
    }
    let changed = Network::Egress(grants.iter().map(ToString::to_string).collect());
    self::grants(&changed)?.as_ref().map_or(Ok(()), uninspected)?;
    Ok(changed)
}

/// Refuses what a sandbox with layers on disk, such as a named sandbox, cannot have: secrets, and network grants that need
/// inspection. Its record may contain no secret, and its granted hosts may change while commands run. These commands have the
/// certificates and placeholders from their start.
///
/// # Errors
/// [`IsolationError::Invalid`] for a secret, for such a network grant, and as for [`changed`].
pub fn check_layered(spec: &SandboxSpec) -> Result<(), IsolationError> {
    if let Some(secret) = spec.secrets.first() {
        return Err(IsolationError::Invalid {
            what: format!("secret {}", secret.target),
            reason: "a sandbox with layers on disk, such as a named sandbox, has no secrets — use `agentd run --secret`"
                .to_owned(),
        });
    }
    grants(&spec.network)?.as_ref().map_or(Ok(()), uninspected)
}

/// Refuses network grants that need inspection, for a sandbox with layers on disk.
fn uninspected(grants: &NetGrants) -> Result<(), IsolationError> {
    grants.need_inspection().map_or(Ok(()), |grant| {
        Err(refused(&format!(
            "network grant {grant}: a method and path inside of TLS need inspection, which a named sandbox does not have — remove \
             the method and path, or use `agentd run`"
        )))
    })
}

fn ports_of(grants: &NetGrants) -> BTreeSet<(Transport, u16)> {
    grants.iter().map(|grant| (grant.transport(), grant.port)).collect()
}

fn refused(reason: &dyn ToString) -> IsolationError {
    IsolationError::Invalid { what: "network".to_owned(), reason: reason.to_string() }
}

/// Returns the ports at which the gateway has sockets in a sandbox of this network.
///
/// # Errors
/// [`IsolationError::Invalid`] for network grants that cannot be enforced.
pub fn ports(network: &Network) -> Result<GatewayPorts, IsolationError> {
    let ports = grants(network)?.as_ref().map(ports_of).unwrap_or_default();
    let of = |transport| ports.iter().filter(|port| port.0 == transport).map(|port| port.1).collect();
    Ok(GatewayPorts { tcp: of(Transport::Tcp), udp: of(Transport::Udp) })
}

/// The settings of a sandbox with granted hosts.
#[derive(Clone)]
pub(crate) struct EgressSettings {
    gateway: GatewayConfig,
    /// The trust stores of the payload, if its TLS is inspected.
    pub(crate) trust: Option<TrustPlan>,
    environment: Vec<(OsString, OsString)>,
}

/// Returns the settings for the network of this spec; `None` if the network needs none.
///
/// # Errors
/// As for [`grants`] and [`check_layered`], for a proxy in the environment that the gateway cannot use, and for secrets that no
/// request could use.
pub(crate) fn settings(spec: &SandboxSpec) -> Result<Option<EgressSettings>, IsolationError> {
    let Some(grants) = of_spec(spec)? else { return Ok(None) };
    let (inspection, trust, environment) = match inspection::prepare(spec, &grants)? {
        Some(Inspected { inspection, trust, environment }) => (Some(inspection), Some(trust), environment),
        None => (None, None, Vec::new()),
    };
    let deny_reason = Some(spec.deny_reasons.join("\n")).filter(|text| !text.is_empty());
    let network_limits = spec.network_limits;
    let gateway = GatewayConfig { network_limits, upstream: upstream()?, inspection, deny_reason, ..GatewayConfig::new(grants) };
    Ok(Some(EgressSettings { gateway, trust, environment }))
}

/// Returns the network grants of a spec; `None` if the network is not [`Network::Egress`]: only granted hosts can have secrets.
fn of_spec(spec: &SandboxSpec) -> Result<Option<NetGrants>, IsolationError> {
    if matches!(spec.writable, Writable::KeptLayers(_)) {
        check_layered(spec)?;
    }
    let grants = grants(&spec.network)?;
    if grants.is_none() && !spec.network_limits.is_empty() {
        let reason = "limits of the network need granted hosts — grant hosts (`--net allow=HOST`), or drop the limits";
        return Err(refused(&reason));
    }
    match spec.secrets.first() {
        Some(secret) if grants.is_none() => Err(IsolationError::Invalid {
            what: format!("secret {}", secret.target),
            reason: "secrets need a network of granted hosts — grant the host (`--net allow=HOST`)".to_owned(),
        }),
        _ => Ok(grants),
    }
}

/// Returns true if the gateway checks the requests inside TLS for the grant.
fn checks_requests(grant: &NetGrant) -> bool {
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

/// Describes what the network of a spec grants.
///
/// # Errors
/// As for `settings`.
pub fn describe(spec: &SandboxSpec) -> Result<Vec<PlanLine>, IsolationError> {
    let Some(grants) = of_spec(spec)? else { return Ok(Vec::new()) };
    let mut lines: Vec<_> = grants.iter().map(|grant| PlanLine::new("allowed", described(grant))).collect();
    lines.extend(inspection::describe(spec, &grants)?);
    lines.push(PlanLine::new("refused", "every other name, address and port; other UDP; TLS for another name"));
    let rule = "private, loopback, link-local and other special addresses only if a grant names their range";
    lines.push(PlanLine::new("addresses", rule));
    let way = match upstream()? {
        Upstream::Proxy(_) => "through the host's proxy (HTTPS_PROXY), by address",
        _ => "from this host, without a proxy",
    };
    lines.push(PlanLine::new("gateway", way));
    if !spec.network_limits.is_empty() {
        lines.push(PlanLine::new("limited", spec.network_limits.to_string()));
    }
    Ok(lines)
}

/// Describes what the network of a spec grants in a virtual machine.
///
/// # Errors
/// As for [`describe`], and for network grants of UDP.
pub fn describe_for_machine(spec: &SandboxSpec) -> Result<Vec<PlanLine>, IsolationError> {
    grants(&spec.network)?.as_ref().map_or(Ok(()), machine::carried)?;
    let mut lines = describe(spec)?;
    if !lines.is_empty() {
        let rule = "the agent in the machine states each destination and each refused attempt; this host looks up the grants";
        lines.push(PlanLine::new("guest", rule));
    }
    Ok(lines)
}

fn described(grant: &NetGrant) -> String {
    let examined = match (&grant.hosts, grant.carried) {
        _ if checks_requests(grant) => "requests inside of TLS",
        (Hosts::Names(_), Carried::Tls) => "TLS for this name",
        (Hosts::Names(_), Carried::Http) => "HTTP/1 requests to this host",
        (_, Carried::Udp) => "UDP, content not examined",
        _ => "TCP, content not examined",
    };
    let waits = if grant.approval { "; waits for `agentd approve`" } else { "" };
    format!("{grant} ({examined}{waits})")
}

#[cfg(test)]
#[path = "egress_tests.rs"]
mod tests;
