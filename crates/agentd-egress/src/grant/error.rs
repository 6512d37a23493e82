//! Errors of the text form of grants.

use super::PathError;
use crate::name::NameError;

/// The reason why a text is not a grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrantError {
    /// An item is empty.
    #[error("network grant: empty item in the list — remove the extra comma, and write no space after a comma")]
    Empty,
    /// The text is a URL, or differs from a grant in another way that shows what was meant.
    #[error("network grant {item:?}: not of the form HOST[:PORT][/PROTOCOL][/METHOD:PATH] — write `{instead}`")]
    Form {
        /// The text, without a user.
        item: String,
        /// Valid grants.
        instead: String,
    },
    /// The grant would allow every name.
    #[error("network grant {item:?}: `*` alone would allow every host — name the hosts, or use `*.NAME` for those below a name")]
    Everything {
        /// The grant.
        item: String,
    },
    /// A `*` is not the first label.
    #[error("network grant {item:?}: a `*` is not the whole first label — use `*.NAME`")]
    Wildcard {
        /// The grant.
        item: String,
    },
    /// The host is not a name.
    #[error("network grant {item:?}: {source} — correct the name")]
    Name {
        /// The grant.
        item: String,
        /// The cause.
        #[source]
        source: NameError,
    },
    /// The host looks like an address, but is not one.
    #[error("network grant {item:?}: not an address or range — use a form such as `10.1.2.0/24:5432` or `[2001:db8::/32]:443`")]
    Range {
        /// The grant.
        item: String,
    },
    /// The range has bits set after its prefix.
    #[error("network grant {item:?}: the address has bits set after the prefix — use `{range}`")]
    HostBits {
        /// The grant.
        item: String,
        /// The range that contains the address.
        range: ipnet::IpNet,
    },
    /// An IPv4 range in IPv6 form, which no connection of a sandbox has.
    #[error("network grant {item:?}: an IPv4 address in IPv6 form — use the IPv4 form")]
    Mapped {
        /// The grant.
        item: String,
    },
    /// An address has no port.
    #[error("network grant {item:?}: an address or range needs a port — add one, as in `{item}:443`")]
    NoPort {
        /// The grant.
        item: String,
    },
    /// The port is not a number from 1 to 65535.
    #[error("network grant {item:?}: the port is not a number from 1 to 65535 — correct the port")]
    Port {
        /// The grant.
        item: String,
    },
    /// Port 53 belongs to the DNS of the gateway.
    #[error("network grant {item:?}: agentd itself answers on port 53 — remove the grant; granted names are resolved without it")]
    Dns {
        /// The grant.
        item: String,
    },
    /// The part after the port is neither a protocol nor a request.
    #[error(
        "network grant {item:?}: {part:?} is neither a protocol nor a request — use `tcp`, `tls`, `http` or `udp`, or append \
         a request to HTTP, as in `/http/GET:/v1/*`; `/approve` stands between the two"
    )]
    Suffix {
        /// The grant.
        item: String,
        /// The part.
        part: String,
    },
    /// A protocol that needs a name was granted for addresses.
    #[error("network grant {item:?}: {protocol} is checked against a name, and an address has none — grant the name instead")]
    NeedsName {
        /// The grant.
        item: String,
        /// The protocol or rule.
        protocol: &'static str,
    },
    /// A request rule for a protocol without requests.
    #[error("network grant {item:?}: a method and path need HTTP — add `/http` or `/tls` before the method")]
    NoRequests {
        /// The grant.
        item: String,
    },
    /// UDP with an approval.
    #[error("network grant {item:?}: datagrams do not wait for an approval — use TCP, or grant UDP without an approval")]
    Datagrams {
        /// The grant.
        item: String,
    },
    /// The path is ambiguous or not a path.
    #[error("network grant {item:?}: {source} — write the path as servers see it, without escapes; `%2C` stands for a comma")]
    Path {
        /// The grant.
        item: String,
        /// The cause.
        #[source]
        source: PathError,
    },
}
