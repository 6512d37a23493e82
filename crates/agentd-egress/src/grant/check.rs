//! Checks whether grants allow a destination, before anything runs.

use super::{Access, Carried, NetGrants, PathError, Transport, suggest};
use crate::{
    address::SpecialKind,
    name::{HostName, NameError},
};
use std::{fmt, net::IpAddr, str::FromStr};

/// The default port of a name.
const DEFAULT_PORT: u16 = 443;

/// A host of a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Name(HostName),
    Address(IpAddr),
}

/// The form of a grant.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name}"),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// A destination, and possibly a request: `HOST[:PORT][/udp]` or `HOST[:PORT][/METHOD:PATH]`. An IPv6 address is written in
/// brackets. A name without a port means port 443.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    host: Host,
    port: u16,
    transport: Transport,
    request: Option<(String, String)>,
}

/// The reason why a text is not a destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DestinationError {
    /// The host is neither a name nor an address.
    #[error("destination {text:?}: {source} — use NAME:PORT, ADDRESS:PORT or [IPV6]:PORT")]
    Host {
        /// The text.
        text: String,
        /// The cause.
        #[source]
        source: NameError,
    },
    /// The text is a URL, or has a user or a named port.
    #[error("destination {text:?}: not of the form HOST[:PORT][/METHOD:PATH] — write `{instead}`")]
    Form {
        /// The text.
        text: String,
        /// A destination.
        instead: String,
    },
    /// The text in brackets is not an IPv6 address.
    #[error("destination {text:?}: not an IPv6 address in brackets — use a form such as `[2001:db8::1]:443`")]
    Address {
        /// The text.
        text: String,
    },
    /// An address without a port, or a port that is not a number from 1 to 65535.
    #[error("destination {text:?}: the port is missing or not a number from 1 to 65535 — use HOST:PORT")]
    Port {
        /// The text.
        text: String,
    },
    /// The part after the port is neither `udp` nor a request.
    #[error("destination {text:?}: the part after `/` is neither `udp` nor METHOD:PATH — use a form such as `GET:/v1/models`")]
    Request {
        /// The text.
        text: String,
    },
}

/// The reason why the grants do not allow a destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrantRefusal {
    /// No grant covers the name: it does not exist for the sandbox.
    #[error("no network grant covers the name {name}, so it does not exist in the sandbox — grant {name}:{port}")]
    Name {
        /// The name.
        name: HostName,
        /// The port of the destination.
        port: u16,
    },
    /// Grants cover the name at other ports.
    #[error("no network grant covers port {port} of {name} — grant {name}:{port}")]
    Port {
        /// The name.
        name: HostName,
        /// The port of the destination.
        port: u16,
    },
    /// No grant covers UDP to the destination.
    #[error("no network grant covers UDP to {host} at port {port} — grant {host}:{port}/udp")]
    Datagrams {
        /// The name or address.
        host: String,
        /// The port of the destination.
        port: u16,
    },
    /// No grant covers the address at this port.
    #[error("no network grant covers port {port} of {address} — grant the address with this port")]
    Address {
        /// The address.
        address: IpAddr,
        /// The port of the destination.
        port: u16,
    },
    /// A granted range contains the address, but the address is special and the range also has other addresses.
    #[error("{address} is {kind}, but the granted range also has other addresses — grant {address} itself")]
    Special {
        /// The address.
        address: IpAddr,
        /// The kind of the address.
        kind: SpecialKind,
    },
    /// No grant allows the method and path.
    #[error("no network grant of {rule} allows {method} {path} — grant this method and path")]
    Request {
        /// The grant that decides.
        rule: String,
        /// The method.
        method: String,
        /// The path.
        path: String,
    },
    /// The path is ambiguous, and a rule depends on it.
    #[error("{source}, so every rule on paths refuses it — use an unambiguous path")]
    Path {
        /// The cause.
        #[from]
        source: PathError,
    },
}

impl Destination {
    /// Returns the access that the grants permit to this destination. This function does not know the addresses of a name or of
    /// this host. The gateway checks these addresses for each connection.
    ///
    /// # Errors
    /// The reason why the gateway would refuse the destination.
    pub fn check(&self, grants: &NetGrants) -> Result<Access, GrantRefusal> {
        let Self { port, transport, .. } = *self;
        let access = match &self.host {
            Host::Name(name) => grants.name(transport, name, port),
            Host::Address(address) => grants.address(transport, *address, port),
        };
        let access = access.ok_or_else(|| match &self.host {
            host if transport == Transport::Udp => GrantRefusal::Datagrams { host: host.to_string(), port },
            Host::Name(name) if grants.has_name(name) => GrantRefusal::Port { name: name.clone(), port },
            Host::Name(name) => GrantRefusal::Name { name: name.clone(), port },
            Host::Address(address) => GrantRefusal::Address { address: *address, port },
        })?;
        if let Host::Address(address) = self.host {
            grants.check_address(transport, address, port).map_err(|kind| GrantRefusal::Special { address, kind })?;
        }
        let Some((method, path)) = self.request.as_ref().filter(|_| !access.requests.is_empty()) else { return Ok(access) };
        let bare = path.split('?').next().unwrap_or(path);
        for rule in &access.requests {
            if rule.allows(method, bare.as_bytes())? {
                return Ok(access);
            }
        }
        Err(GrantRefusal::Request { rule: access.rule, method: method.clone(), path: path.clone() })
    }
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        parse(text).map_err(|error| match suggest::destination(text) {
            Some(instead) => DestinationError::Form { text: text.to_owned(), instead },
            None => error,
        })
    }
}

/// Reads a destination.
pub(super) fn parse(text: &str) -> Result<Destination, DestinationError> {
    let owned = || text.to_owned();
    let (host, request) = text.split_once('/').map_or((text, None), |(host, request)| (host, Some(request)));
    let (transport, request) = match request {
        Some("udp") => (Transport::Udp, None),
        request => (Transport::Tcp, request),
    };
    let request = match request {
        Some(request) => {
            let parts = request
                .split_once(':')
                .filter(|(method, path)| !method.is_empty() && !method.contains('/') && path.starts_with('/'));
            let (method, path) = parts.ok_or_else(|| DestinationError::Request { text: owned() })?;
            Some((method.to_owned(), path.to_owned()))
        }
        None => None,
    };
    let (host, port) = match host.strip_prefix('[') {
        Some(inner) => {
            let error = || DestinationError::Address { text: owned() };
            let (inner, port) = inner.split_once(']').ok_or_else(error)?;
            let address = inner.parse().map(IpAddr::V6).map_err(|_| error())?;
            (Host::Address(address), port.strip_prefix(':'))
        }
        None => {
            let (host, port) = host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port)));
            let host = match host.parse() {
                Ok(address) => Host::Address(IpAddr::V4(address)),
                Err(_) => Host::Name(host.parse().map_err(|source| DestinationError::Host { text: owned(), source })?),
            };
            (host, port)
        }
    };
    let port = match port {
        None if matches!(host, Host::Name(_)) => Some(DEFAULT_PORT),
        // `u16::from_str` also accepts a sign.
        _ => port.filter(|port| port.bytes().all(|byte| byte.is_ascii_digit())).and_then(|port| port.parse().ok()),
    };
    let port = port.filter(|port| *port != 0).ok_or_else(|| DestinationError::Port { text: owned() })?;
    Ok(Destination { host, port, transport, request })
}

/// Writes one line that says what is allowed, and what the gateway checks.
impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.carried {
            Carried::Tcp => "TCP, whose bytes are not examined",
            Carried::Tls if !self.requests.is_empty() => "TLS that is inspected",
            Carried::Tls => "TLS with the granted name as SNI",
            Carried::Http => "HTTP/1 with the granted name as host",
            Carried::Udp => "UDP, whose datagrams are not examined",
        })?;
        if self.approval {
            f.write_str("; waits for `agentd approve`")?;
        }
        let mut before = "; requests: ";
        for rule in &self.requests {
            write!(f, "{before}{rule}")?;
            before = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(destination: &str, grants: &str) -> Result<Access, GrantRefusal> {
        destination.parse::<Destination>().unwrap().check(&grants.parse().unwrap())
    }

    #[test]
    fn granted_destinations_are_allowed_by_their_grant() {
        for (destination, grants, rule) in [
            ("PyPI.example", "pypi.example", "pypi.example:443"),
            ("a.files.example:443", "pypi.example,*.files.example", "*.files.example:443"),
            ("api.example/GET:/v1/models?x=/../y", "api.example/GET:/v1/*", "api.example:443/GET:/v1/*"),
            ("api.example/POST:/any//thing", "api.example", "api.example:443"),
            ("10.1.2.3:5432", "10.1.2.0/24:5432", "10.1.2.0/24:5432"),
            ("[2001:db8::1]:22", "[2001:db8::1]:22", "[2001:db8::1]:22"),
            ("time.example:123/udp", "*.example:123/udp,time.example:123", "*.example:123/udp"),
            ("10.1.2.3:514/udp", "10.1.2.0/24:514,10.1.2.0/24:514/udp", "10.1.2.0/24:514/udp"),
        ] {
            assert_eq!(check(destination, grants).map(|access| access.rule).as_deref(), Ok(rule), "{destination}");
        }
    }

    #[test]
    fn other_destinations_are_refused_with_the_missing_grant() {
        for (destination, grants, reason) in [
            ("evil-pypi.example", "pypi.example", "grant evil-pypi.example:443"),
            ("pypi.example.evil.example", "pypi.example", "does not exist"),
            ("files.example", "*.files.example", "does not exist"),
            ("pypi.example:22", "pypi.example", "no network grant covers port 22 of pypi.example"),
            ("10.1.3.3:5432", "10.1.2.0/24:5432", "no network grant covers port 5432 of 10.1.3.3"),
            ("169.254.169.254:80", "0.0.0.0/0:80", "169.254.169.254 is link-local"),
            ("169.254.169.254:80/udp", "0.0.0.0/0:80/udp,169.254.169.254:80", "169.254.169.254 is link-local"),
            ("time.example:123", "time.example:123/udp", "no network grant covers port 123 of time.example"),
            ("time.example:123/udp", "time.example:123", "grant time.example:123/udp"),
            ("[2001:4860::1]:123/udp", "time.example:123", "grant [2001:4860::1]:123/udp"),
            ("api.example/DELETE:/v1/x", "api.example/GET:/v1/*", "allows DELETE /v1/x"),
            ("api.example/GET:/v1/../x", "api.example/GET:/v1/*", "`..`"),
        ] {
            let refusal = check(destination, grants).unwrap_err().to_string();
            assert!(refusal.contains(reason), "{destination}: {refusal}");
        }
    }

    #[test]
    fn texts_that_are_no_destination_are_errors() {
        for text in [
            "",
            "a b",
            "1.2.3.4",
            "x.example:0",
            "x.example:+1",
            "x.example:",
            "[::1]",
            "[x]:1",
            "x.example/GET",
            "x.example/:/",
            "x.example/udp/GET:/",
        ] {
            assert!(text.parse::<Destination>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_destination_or_an_error(text in ".{0,80}") {
            if let Ok(destination) = text.parse::<Destination>() {
                let _either = destination.check(&"*.example,10.0.0.0/8:1".parse().unwrap());
            }
        }
    }
}
