//! The hosts that an operation reaches by its parameters, and the network of its sandbox.
//!
//! Without a request of the caller, the sandbox reaches the host that the URL names and no other. A caller who names grants names
//! all of them: also the hosts to which redirects and submodules lead. Each host is a resource, so the policies decide about
//! each.

use agentd_core::Network;
use agentd_egress::{
    NetGrant,
    grant::{GrantError, Hosts, Transport},
};
use agentd_policy::Resource;
use agentd_tool::{ToolError, WebHost, WebScheme};
use std::net::IpAddr;

/// The network of the sandbox of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Destinations {
    /// The network that the sandbox gets, if the policies permit it.
    pub network: Network,
    /// The hosts, about each of which the policies decide.
    pub hosts: Vec<Resource>,
}

/// The reason why the destinations of an operation cannot be decided about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DestinationRefusal {
    /// The URL is refused.
    #[error("parameters: {0}")]
    Url(#[from] ToolError),
    /// The host of the URL cannot be granted.
    #[error("parameters: URL: {0}")]
    Host(#[source] GrantError),
    /// A grant is malformed.
    #[error("network: {0}")]
    Grant(#[source] GrantError),
    /// A grant covers more than one host.
    #[error("network: {0}: more than one host — name each host, because the policies decide about each")]
    Several(String),
    /// The URL has an address, and no grant names it.
    #[error("network: {0} is an address, which is reached only if a grant names it — add --net allow={0}")]
    Address(String),
    /// The grants do not name the host of the URL.
    #[error("network: the grants do not name {0}, the host of the URL — add it, or leave the option out to reach this host only")]
    NotNamed(String),
}

impl Destinations {
    /// Returns the destinations of an operation that begins at `url`, and whose caller requests this network.
    ///
    /// # Errors
    /// [`DestinationRefusal`].
    pub(crate) fn of(url: &str, requested: Option<&Network>) -> Result<Self, DestinationRefusal> {
        let own = grant_of(&WebHost::of(url)?)?;
        let not_named = || DestinationRefusal::NotNamed(own.to_string());
        let grants = match requested {
            // An address may belong to this host, or to a service that trusts its network. A name that leads to one is refused.
            None if matches!(own.hosts, Hosts::Range(_)) => return Err(DestinationRefusal::Address(own.to_string())),
            None => vec![own],
            Some(Network::Off) => return Err(not_named()),
            // No capability may use it. The comparison with the policies says so.
            Some(Network::Host) => return Ok(Self { network: Network::Host, hosts: hosts(&[own])? }),
            Some(Network::Egress(texts)) => {
                let grants = texts.iter().map(|text| text.parse::<NetGrant>()).collect::<Result<Vec<_>, _>>();
                let grants = grants.map_err(DestinationRefusal::Grant)?;
                let named =
                    |grant: &NetGrant| grant.hosts == own.hosts && grant.port == own.port && grant.transport() == Transport::Tcp;
                if !grants.iter().any(named) {
                    return Err(not_named());
                }
                grants
            }
        };
        let network = Network::Egress(grants.iter().map(ToString::to_string).collect());
        Ok(Self { network, hosts: hosts(&grants)? })
    }
}

/// Returns the grant for the host of a URL.
fn grant_of(host: &WebHost) -> Result<NetGrant, DestinationRefusal> {
    let protocol = match (host.host.parse::<IpAddr>(), host.scheme) {
        // A grant of an address carries TCP only.
        (Ok(_), _) => "",
        (Err(_), WebScheme::Http) => "/http",
        (Err(_), WebScheme::Https) => "/tls",
    };
    format!("{host}{protocol}").parse().map_err(DestinationRefusal::Host)
}

/// Returns the hosts of the grants as resources, each once.
fn hosts(grants: &[NetGrant]) -> Result<Vec<Resource>, DestinationRefusal> {
    let mut hosts: Vec<Resource> = Vec::new();
    for grant in grants {
        let name = match &grant.hosts {
            Hosts::Names(pattern) if pattern.is_exact() => pattern.to_string(),
            Hosts::Range(range) if range.prefix_len() == range.max_prefix_len() => range.addr().to_string(),
            _ => return Err(DestinationRefusal::Several(grant.to_string())),
        };
        let resource = Resource::Host { name, port: grant.port };
        if !hosts.contains(&resource) {
            hosts.push(resource);
        }
    }
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn egress(grants: &[&str]) -> Network {
        Network::Egress(grants.iter().map(|grant| (*grant).to_owned()).collect())
    }

    fn host(name: &str, port: u16) -> Resource {
        Resource::Host { name: name.to_owned(), port }
    }

    #[test]
    fn only_the_host_of_the_url_is_reached_unless_others_are_named() {
        for (url, grant, name, port) in [
            ("https://A.Example./x", "a.example:443", "a.example", 443),
            ("http://a.example/", "a.example:80", "a.example", 80),
            ("https://a.example:8443/", "a.example:8443/tls", "a.example", 8443),
            ("http://a.example:443/", "a.example:443/http", "a.example", 443),
        ] {
            let expected = Destinations { network: egress(&[grant]), hosts: vec![host(name, port)] };
            assert_eq!(Destinations::of(url, None).unwrap(), expected, "{url}");
        }
        for (url, grant, name, port) in [
            ("https://93.184.216.34/", "93.184.216.34:443", "93.184.216.34", 443),
            ("http://[2001:db8::1]:81/", "[2001:db8::1]:81", "2001:db8::1", 81),
            ("http://0x7f.1/", "127.0.0.1:80", "127.0.0.1", 80),
        ] {
            assert!(matches!(Destinations::of(url, None), Err(DestinationRefusal::Address(_))), "{url}");
            let expected = Destinations { network: egress(&[grant]), hosts: vec![host(name, port)] };
            assert_eq!(Destinations::of(url, Some(&egress(&[grant]))).unwrap(), expected, "{url}");
        }
        let named = egress(&["b.example", "a.example/GET:/v1/*", "a.example/POST:/v1/*"]);
        let of = Destinations::of("https://a.example/v1/x", Some(&named)).unwrap();
        assert_eq!(of.hosts, [host("b.example", 443), host("a.example", 443)]);
        assert_eq!(of.network, egress(&["b.example:443", "a.example:443/GET:/v1/*", "a.example:443/POST:/v1/*"]));
    }

    #[test]
    fn several_hosts_in_one_grant_and_a_missing_host_are_refused() {
        let of = |grants: &[&str]| Destinations::of("https://a.example/", Some(&egress(grants))).unwrap_err();
        assert!(matches!(of(&["a.example", "*.b.example"]), DestinationRefusal::Several(_)));
        assert!(matches!(of(&["a.example", "10.0.0.0/8:443"]), DestinationRefusal::Several(_)));
        for grants in [&[][..], &["b.example"], &["*.example"], &["a.example:80"], &["a.example:443/udp"]] {
            assert!(matches!(of(grants), DestinationRefusal::NotNamed(_)), "{grants:?}");
        }
        assert!(matches!(Destinations::of("https://a.example/", Some(&Network::Off)), Err(DestinationRefusal::NotNamed(_))));
        assert!(matches!(Destinations::of("https://a.example:53/", None), Err(DestinationRefusal::Host(_))));
        assert!(matches!(Destinations::of("ftp://a.example/", None), Err(DestinationRefusal::Url(_))));
    }
}
