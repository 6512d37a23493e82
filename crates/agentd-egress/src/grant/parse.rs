//! The text form of one grant: `HOST[:PORT][/PROTOCOL][/approve][/METHOD:PATH]`.
//!
//! HOST is a name, `*.NAME`, an IPv4 address or range, or an IPv6 address or range in brackets. A name without a port means TCP
//! port 443. PROTOCOL is `tcp`, `tls`, `http` or `udp`; without it, port 443 of a name carries TLS, port 80 HTTP, and every other
//! port TCP. A method has upper-case letters and a colon follows it, so neither a protocol nor `approve` is a method.

use super::{APPROVE, Carried, GrantError, Hosts, NetGrant, RequestRule, suggest};
use crate::name::NamePattern;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// The default port of a name.
const DEFAULT_PORT: u16 = 443;

impl FromStr for NetGrant {
    type Err = GrantError;

    fn from_str(item: &str) -> Result<Self, GrantError> {
        parse(item).map_err(|error| match suggest::instead(item) {
            Some(instead) => {
                // A user can have a password.
                let shown = item.rsplit_once('@').map_or_else(|| item.to_owned(), |(_, host)| format!("…@{host}"));
                GrantError::Form { item: shown, instead }
            }
            None => error,
        })
    }
}

/// Reads a grant.
pub(super) fn parse(item: &str) -> Result<NetGrant, GrantError> {
    let owned = || item.to_owned();
    if item.is_empty() {
        return Err(GrantError::Empty);
    }
    let (hosts, rest) = hosts(item)?;
    let (port, suffix) = port(item, rest)?;
    let Suffix { protocol, approval, request } = suffix.map_or(Ok(Suffix::default()), |suffix| read_suffix(item, suffix))?;
    let is_range = matches!(hosts, Hosts::Range(_));
    let port = match port {
        Some(53) => return Err(GrantError::Dns { item: owned() }),
        Some(port) => port,
        None if is_range => return Err(GrantError::NoPort { item: owned() }),
        None => DEFAULT_PORT,
    };
    let usual = if is_range { Carried::Tcp } else { Carried::usual(port) };
    let carried = protocol.unwrap_or(usual);
    if is_range && (request.is_some() || matches!(carried, Carried::Tls | Carried::Http)) {
        let protocol = if request.is_some() { "a request" } else { carried.word() };
        return Err(GrantError::NeedsName { item: owned(), protocol });
    }
    if request.is_some() && matches!(carried, Carried::Tcp | Carried::Udp) {
        return Err(GrantError::NoRequests { item: owned() });
    }
    let grant = NetGrant { hosts, port, carried, approval: false, request };
    if approval { grant.with_approval() } else { Ok(grant) }
}

/// Splits the text into the hosts and the rest. The rest is empty, or starts with `:` or `/`.
fn hosts(item: &str) -> Result<(Hosts, &str), GrantError> {
    let range_error = || GrantError::Range { item: item.to_owned() };
    if let Some(inner) = item.strip_prefix('[') {
        let (inner, rest) = inner.split_once(']').ok_or_else(range_error)?;
        let range = match inner.split_once('/') {
            Some(_) => inner.parse::<Ipv6Net>().ok(),
            None => inner.parse::<Ipv6Addr>().ok().map(Ipv6Net::from),
        };
        return Ok((range_of(item, IpNet::V6(range.ok_or_else(range_error)?))?, rest));
    }
    if item.parse::<Ipv6Addr>().is_ok() || item.parse::<Ipv6Net>().is_ok() {
        return Err(range_error());
    }
    let end = item.find([':', '/']).unwrap_or(item.len());
    let (host, rest) = item.split_at(end);
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        let Some(after) = rest.strip_prefix('/').filter(|after| after.starts_with(|first: char| first.is_ascii_digit())) else {
            return Ok((Hosts::Range(IpNet::V4(address.into())), rest));
        };
        let end = after.find([':', '/']).unwrap_or(after.len());
        let (length, rest) = after.split_at(end);
        let range = length.parse().ok().and_then(|length| Ipv4Net::new(address, length).ok()).ok_or_else(range_error)?;
        return Ok((range_of(item, IpNet::V4(range))?, rest));
    }
    Ok((Hosts::Names(pattern(item, host)?), rest))
}

fn range_of(item: &str, range: IpNet) -> Result<Hosts, GrantError> {
    if let IpNet::V6(range) = range
        && range.addr().to_ipv4_mapped().is_some()
    {
        return Err(GrantError::Mapped { item: item.to_owned() });
    }
    if range.addr() != range.network() {
        return Err(GrantError::HostBits { item: item.to_owned(), range: range.trunc() });
    }
    Ok(Hosts::Range(range))
}

fn pattern(item: &str, host: &str) -> Result<NamePattern, GrantError> {
    let name = |text: &str| text.parse().map_err(|source| GrantError::Name { item: item.to_owned(), source });
    if matches!(host, "*" | "*.") {
        return Err(GrantError::Everything { item: item.to_owned() });
    }
    let below = host.strip_prefix("*.");
    if below.unwrap_or(host).contains('*') {
        return Err(GrantError::Wildcard { item: item.to_owned() });
    }
    Ok(match below {
        Some(below) => NamePattern::below(name(below)?),
        None => NamePattern::exactly(name(host)?),
    })
}

/// Returns the port, and the part after the `/` that follows.
fn port<'a>(item: &str, rest: &'a str) -> Result<(Option<u16>, Option<&'a str>), GrantError> {
    let error = || GrantError::Port { item: item.to_owned() };
    if let Some(suffix) = rest.strip_prefix('/') {
        return Ok((None, Some(suffix)));
    }
    if rest.is_empty() {
        return Ok((None, None));
    }
    let rest = rest.strip_prefix(':').ok_or_else(error)?;
    let (port, suffix) = match rest.split_once('/') {
        Some((port, suffix)) => (port, Some(suffix)),
        None => (rest, None),
    };
    // `u16::from_str` also accepts a sign.
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| digits && *port != 0).ok_or_else(error)?;
    Ok((Some(port), suffix))
}

/// The parts after the port.
#[derive(Default)]
struct Suffix {
    protocol: Option<Carried>,
    approval: bool,
    request: Option<RequestRule>,
}

/// Splits the text after its first word.
fn first_word(text: &str) -> (&str, Option<&str>) {
    text.split_once('/').map_or((text, None), |(word, after)| (word, Some(after)))
}

fn read_suffix(item: &str, suffix: &str) -> Result<Suffix, GrantError> {
    let (word, after) = first_word(suffix);
    let protocol = [Carried::Tcp, Carried::Tls, Carried::Http, Carried::Udp].into_iter().find(|one| one.word() == word);
    let rest = if protocol.is_some() { after } else { Some(suffix) };
    let (approval, request) = match rest.map(first_word) {
        Some((APPROVE, after)) => (true, after),
        _ => (false, rest),
    };
    let Some(request) = request else { return Ok(Suffix { protocol, approval, request: None }) };
    let unknown = || GrantError::Suffix { item: item.to_owned(), part: request.to_owned() };
    let (method, path) = request.split_once(':').ok_or_else(unknown)?;
    let is_method = method == "*" || (!method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-'));
    if !is_method {
        return Err(unknown());
    }
    let rule = RequestRule::new(method, path).map_err(|source| GrantError::Path { item: item.to_owned(), source })?;
    Ok(Suffix { protocol, approval, request: Some(rule) })
}
