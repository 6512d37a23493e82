//! The network namespace of a sandbox that reaches granted hosts only, for the gateway outside.
//!
//! The only interface is `lo`, so no packet leaves the namespace. Routes make every address local ("AnyIP"): the kernel itself
//! ends each connection, whatever its destination, at the sockets that listen in this namespace. Only the gateway gets these
//! sockets.

mod attempts;

use crate::ErrnoContext;
use agentd_core::{Control, ControlError, ControlStatus};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, listen, netlink::SocketAddrNetlink, recv, send,
        socket_with, sockopt,
    },
};
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    time::Duration,
};

/// The purpose of a socket of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GatewaySocket {
    /// Listens on a granted TCP port.
    Tcp,
    /// Listens on TCP port 53.
    DnsTcp,
    /// Receives datagrams at a granted UDP port.
    Udp,
    /// Receives datagrams at UDP port 53.
    DnsUdp,
    /// A raw socket that receives the first packet of each TCP connection, or UDP datagrams, to addresses that are not the
    /// sandbox's own.
    Attempts,
}

/// The ports at which the gateway has sockets, in addition to port 53.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayPorts {
    /// TCP ports.
    pub tcp: Vec<u16>,
    /// UDP ports.
    pub udp: Vec<u16>,
}

/// The name server in `resolv.conf`. Every address is local, so the gateway answers at any address.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

const OWN_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// The addresses of `lo`. If `lo` had only loopback addresses, `getaddrinfo(3)` with `AI_ADDRCONFIG` would find no family. The
/// addresses are in the ranges that the gateway uses for names, but are assigned to no name.
const ADDRESSES: [IpAddr; 2] = [IpAddr::V4(OWN_V4), IpAddr::V6(Ipv6Addr::new(0xfd61, 0x6765, 0x6e74, 0, 0, 0, 0, 2))];

/// The maximum number of connections that wait to be accepted, for each socket. The sysctl `net.core.somaxconn` may lower it.
const BACKLOG: i32 = 1024;
const DNS: u16 = 53;
/// The maximum wait for the IPv6 address. The wait usually takes some microseconds.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(1);

/// The prepared network namespace.
pub struct Prepared {
    /// The sockets of the gateway.
    pub sockets: Vec<(GatewaySocket, OwnedFd)>,
    /// Partial if attempts that the kernel refuses are not recorded.
    pub status: ControlStatus,
    /// The detail of the control's report.
    pub detail: String,
}

/// Prepares the network namespace of this process: addresses, routes, and the sockets at the `ports` and at port 53.
/// Needs CAP_NET_ADMIN and CAP_NET_BIND_SERVICE in the namespace, and CAP_NET_RAW for the record of refused attempts.
///
/// # Errors
/// The errno of a failed step for IPv4. On a kernel without IPv6, there are no sockets for IPv6, and the namespace has no IPv6
/// either.
pub fn prepare(ports: &GatewayPorts) -> Result<Prepared, ControlError> {
    let [v4, v6] = ADDRESSES;
    make_all_local(v4).during(Control::Network, || "make every IPv4 address local: rtnetlink".to_owned())?;
    let mut sockets = sockets_of(v4, ports)?;
    let mut families = vec![AddressFamily::INET];
    let watch = watch_v6_addresses();
    if make_all_local(v6).is_ok() {
        sockets.extend(sockets_of(v6, ports)?);
        families.push(AddressFamily::INET6);
        // Without this wait, a packet may be lost.
        watch.and_then(|watch| wait_until_usable(&watch)).ok();
    }
    let attempts: Result<Vec<_>, _> = families.iter().map(|family| attempts::sockets(*family)).collect();
    // Without these sockets, the kernel refuses the same attempts.
    let status = match attempts {
        Ok(attempts) => {
            sockets.extend(attempts.into_iter().flatten().map(|socket| (GatewaySocket::Attempts, socket)));
            ControlStatus::Enforced
        }
        Err(errno) => ControlStatus::Partial(format!(
            "TCP to other ports and UDP are refused, but not recorded: create a raw socket in the sandbox's network: {errno} \
             — in an outer sandbox, allow raw sockets"
        )),
    };
    let families = if families.len() > 1 { "IPv4 and IPv6" } else { "IPv4" };
    let GatewayPorts { tcp, udp } = ports;
    let mut detail = format!("gateway to granted hosts, {families}; TCP ports {tcp:?}");
    if !udp.is_empty() {
        detail.push_str(&format!(", UDP ports {udp:?}"));
    }
    Ok(Prepared { sockets, status, detail })
}

fn sockets_of(family: IpAddr, ports: &GatewayPorts) -> Result<Vec<(GatewaySocket, OwnedFd)>, ControlError> {
    let tcp = ports.tcp.iter().map(|port| (GatewaySocket::Tcp, *port));
    let udp = ports.udp.iter().map(|port| (GatewaySocket::Udp, *port));
    tcp.chain(udp)
        .chain([(GatewaySocket::DnsTcp, DNS), (GatewaySocket::DnsUdp, DNS)])
        .map(|(purpose, port)| {
            let socket = socket(family, purpose, port);
            let call = || format!("create the socket of the gateway at port {port}");
            Ok((purpose, socket.during(Control::Network, call)?))
        })
        .collect()
}

/// Creates a socket at a port of every address of the family. The socket has no `SO_REUSEADDR`, so no program in the sandbox can
/// bind the port.
fn socket(family: IpAddr, purpose: GatewaySocket, port: u16) -> Result<OwnedFd, Errno> {
    let (family, any) = match family {
        IpAddr::V4(_) => (AddressFamily::INET, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        IpAddr::V6(_) => (AddressFamily::INET6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    let datagrams = matches!(purpose, GatewaySocket::Udp | GatewaySocket::DnsUdp);
    let kind = if datagrams { SocketType::DGRAM } else { SocketType::STREAM };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    bind_all(&socket, SocketAddr::new(any, port))?;
    if kind == SocketType::STREAM {
        listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

/// Binds an unbound socket of the sandbox to a port of every IPv4 address, or of every IPv6 address with `v6`. A TCP socket then
/// listens.
/// Needs CAP_NET_BIND_SERVICE in the user namespace that owns the socket's network namespace. A process of the user who created
/// that user namespace has all capabilities in it, if the process is in the parent namespace (`man 7 user_namespaces`).
///
/// # Errors
/// `EADDRINUSE` if a program in the sandbox has bound the port.
pub fn listen_at(socket: &OwnedFd, v6: bool, port: u16) -> Result<(), Errno> {
    let any = if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    bind_all(socket, SocketAddr::new(any, port))?;
    if sockopt::socket_type(socket)? == SocketType::STREAM { listen(socket, BACKLOG) } else { Ok(()) }
}

fn bind_all(socket: &OwnedFd, address: SocketAddr) -> Result<(), Errno> {
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(socket, true)?;
    }
    bind(socket, &address)
}

/// Numbers of `linux/rtnetlink.h`, `linux/netlink.h` and `linux/if_addr.h`.
mod rtnetlink {
    pub(super) const NEW_ADDRESS: u16 = 20;
    pub(super) const NEW_ROUTE: u16 = 24;
    /// `NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE`.
    pub(super) const FLAGS: u16 = 0x0001 | 0x0004 | 0x0400;
    pub(super) const IFA_ADDRESS: u16 = 1;
    pub(super) const IFA_LOCAL: u16 = 2;
    /// No duplicate address detection, so that the address is usable immediately.
    pub(super) const IFA_F_NODAD: u8 = 0x02;
    /// The multicast group `RTMGRP_IPV6_IFADDR`.
    pub(super) const GROUP_V6_ADDRESSES: u32 = 0x100;
    pub(super) const RTA_OIF: u16 = 4;
    pub(super) const RTA_PREFSRC: u16 = 7;
    pub(super) const RT_TABLE_MAIN: u8 = 254;
    pub(super) const RTPROT_BOOT: u8 = 3;
    pub(super) const RT_SCOPE_HOST: u8 = 254;
    pub(super) const RTN_LOCAL: u8 = 2;
    /// The index of `lo`, which is the first interface of each namespace.
    pub(super) const LOOPBACK: u32 = 1;
}

/// Assigns the address to `lo`, and makes every address of its family local (`ip route add local default dev lo src ADDRESS`).
fn make_all_local(address: IpAddr) -> Result<(), Errno> {
    use rtnetlink::{
        FLAGS, IFA_ADDRESS, IFA_F_NODAD, IFA_LOCAL, LOOPBACK, NEW_ADDRESS, NEW_ROUTE, RT_SCOPE_HOST, RT_TABLE_MAIN, RTA_OIF,
        RTA_PREFSRC, RTN_LOCAL, RTPROT_BOOT,
    };
    let (family, octets) = match address {
        IpAddr::V4(address) => (AddressFamily::INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AddressFamily::INET6, address.octets().to_vec()),
    };
    let family = u8::try_from(family.as_raw()).map_err(|_| Errno::AFNOSUPPORT)?;
    let bits = u8::try_from(octets.len() * 8).map_err(|_| Errno::INVAL)?;
    let loopback = LOOPBACK.to_ne_bytes();
    // Without a protocol: NETLINK_ROUTE.
    let netlink = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let address =
        [&[family, bits, IFA_F_NODAD, 0][..], &loopback, &attribute(IFA_LOCAL, &octets), &attribute(IFA_ADDRESS, &octets)];
    request(&netlink, NEW_ADDRESS, FLAGS, &address.concat())?;
    let route = [
        &[family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_HOST, RTN_LOCAL, 0, 0, 0, 0][..],
        &attribute(RTA_OIF, &loopback),
        &attribute(RTA_PREFSRC, &octets),
    ];
    request(&netlink, NEW_ROUTE, FLAGS, &route.concat())
}

/// Returns a socket that receives a message about each change of an IPv6 address.
fn watch_v6_addresses() -> Result<OwnedFd, Errno> {
    let watch = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    bind(&watch, &SocketAddrNetlink::new(0, rtnetlink::GROUP_V6_ADDRESSES))?;
    sockopt::set_socket_timeout(&watch, sockopt::Timeout::Recv, Some(ADDRESS_TIMEOUT))?;
    Ok(watch)
}

/// Waits until the IPv6 address of `lo` is usable. The kernel adds the route to the address in a worker, even without duplicate
/// address detection (`addrconf_dad_start`), and then sends a message to `watch`. Before the message, a packet may be lost: on a
/// busy machine, the first answer did not arrive in 166 of 400 namespaces. After a loss, a connection waits a second before it
/// sends its packet again.
fn wait_until_usable(watch: &OwnedFd) -> Result<(), Errno> {
    let [_, IpAddr::V6(own)] = ADDRESSES else { return Err(Errno::AFNOSUPPORT) };
    let mut message = [0; 256];
    loop {
        let (received, _) = recv(watch, &mut message, RecvFlags::empty())?;
        if message.get(..received).unwrap_or_default().windows(16).any(|part| part == own.octets()) {
            return Ok(());
        }
    }
}

/// Encodes an attribute whose value needs no padding (`struct rtattr`).
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
}

/// Sends one request and waits for its acknowledgement (`netlink(7)`, `NLMSG_ERROR`).
fn request(netlink: &OwnedFd, kind: u16, flags: u16, body: &[u8]) -> Result<(), Errno> {
    let length = u32::try_from(16 + body.len()).map_err(|_| Errno::MSGSIZE)?;
    let head = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8]].concat();
    send(netlink, &[head, body.to_vec()].concat(), SendFlags::empty())?;
    let mut answer = [0; 256];
    let (received, _) = recv(netlink, &mut answer, RecvFlags::empty())?;
    // The errno, negated, follows the head of 16 bytes.
    let errno = answer.get(16..20).filter(|_| received >= 20).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    match errno.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(errno) => Err(Errno::from_raw_os_error(-errno)),
        None => Err(Errno::BADMSG),
    }
}
