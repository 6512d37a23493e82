//! Resolves a name to the addresses to which a sandbox may connect.

use crate::{
    address::SpecialKind,
    grant::{NetGrants, Transport},
    name::HostName,
    record::FlowRefusal,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket},
};

/// Resolves names outside of the sandbox. A call may block; the gateway bounds how many run and how long it waits.
pub trait Resolve: Send + Sync + 'static {
    /// Returns the addresses of the name, the best one first.
    ///
    /// # Errors
    /// The name has no address, or the resolver failed.
    fn resolve(&self, name: &HostName) -> io::Result<Vec<IpAddr>>;
}

/// The host's resolver (`man 3 getaddrinfo`), with the host's configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostResolver;

impl Resolve for HostResolver {
    fn resolve(&self, name: &HostName) -> io::Result<Vec<IpAddr>> {
        Ok((name.as_str(), 0).to_socket_addrs()?.map(|address| address.ip()).collect())
    }
}

/// Keeps the addresses that the grants permit at the port over the transport.
///
/// # Errors
/// The reason for the first address, if none remains. An empty list remains an empty list.
pub(crate) fn permitted(
    grants: &NetGrants,
    transport: Transport,
    addresses: &[IpAddr],
    port: u16,
) -> Result<Vec<SocketAddr>, FlowRefusal> {
    let check = |address: IpAddr| {
        grants.check_address(transport, address, port)?;
        let own = is_own(address) && !grants.names_own_address(transport, address, port);
        if own { Err(SpecialKind::Own) } else { Ok(()) }
    };
    let mut refused = None;
    let mut kept: Vec<SocketAddr> = Vec::new();
    for address in addresses {
        let destination = SocketAddr::new(*address, port);
        match check(*address) {
            Ok(()) if kept.contains(&destination) => {}
            Ok(()) => kept.push(destination),
            Err(kind) => drop(refused.get_or_insert(FlowRefusal::Special { address: *address, kind })),
        }
    }
    match refused {
        Some(refused) if kept.is_empty() => Err(refused),
        _ => Ok(kept),
    }
}

/// Returns true if the address is one of this host. A socket can be bound only to such an address (`man 7 ip`).
///
/// With `net.ipv4.ip_nonlocal_bind`, a socket can be bound to every address. In that case, the kernel's choice of the source
/// address decides: to reach an address of this host, the kernel uses the same address as the source.
fn is_own(address: IpAddr) -> bool {
    if !can_bind(address) {
        return false;
    }
    // RFC 5737 and RFC 3849: addresses for documentation, which no host has.
    let nobody: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    !can_bind(nobody) || source(address).is_none_or(|source| source == address)
}

fn can_bind(address: IpAddr) -> bool {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .and_then(|socket| bind(&socket, &SocketAddr::new(address, 0)))
        .is_ok()
}

/// Returns the address from which the kernel would connect. Connecting a UDP socket sends nothing.
fn source(to: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((to, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn forbidden_addresses_are_left_out_and_reported_if_nothing_remains() {
        let grants: NetGrants = "a.example:80".parse().unwrap();
        let mixed = addresses(&["169.254.169.254", "93.184.216.34", "10.0.0.1", "93.184.216.34", "2606:4700::1111"]);
        let kept = permitted(&grants, Transport::Tcp, &mixed, 80).unwrap();
        assert_eq!(kept, ["93.184.216.34:80".parse().unwrap(), "[2606:4700::1111]:80".parse().unwrap()]);
        let refusal = FlowRefusal::Special { address: mixed[0], kind: SpecialKind::LinkLocal };
        let bad = addresses(&["169.254.169.254", "127.0.0.1"]);
        assert_eq!(permitted(&grants, Transport::Tcp, &bad, 80), Err(refusal));
        assert_eq!(permitted(&grants, Transport::Tcp, &[], 80), Ok(Vec::new()));
    }

    #[test]
    fn own_addresses_are_recognised_and_others_are_not() {
        assert!(is_own("127.0.0.1".parse().unwrap()) && is_own("127.200.0.1".parse().unwrap()));
        assert!(!is_own("93.184.216.34".parse().unwrap()) && !is_own("2606:4700::1111".parse().unwrap()));
        assert_eq!(source("127.0.0.1".parse().unwrap()), Some("127.0.0.1".parse().unwrap()));
    }
}
