//! A1, A13, A14: the host's network, and sockets that could connect host and sandbox.

use crate::{
    check::{BUG, Check, Facts, Verdict, broken_if, first},
    sys,
};
use agentd_core::Claim::Network;
use std::{
    net::{TcpStream, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixStream},
    },
};

/// The advice for attacks that the system call filter stops.
const FILTER: &str = "boot a kernel with CONFIG_SECCOMP_FILTER; in an outer sandbox, allow seccomp(2)";
const AF_VSOCK: i32 = 40;
const NETLINK_NETFILTER: i32 = 12;

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "a1_connect_to_the_hosts_loopback", claim: Network, remedy: BUG, run: loopback },
    Check { name: "a1_connect_to_an_abstract_socket", claim: Network, remedy: BUG, run: abstract_socket },
    Check { name: "a1_connect_to_a_socket_file", claim: Network, remedy: BUG, run: socket_file },
    Check { name: "a1_see_a_network_interface", claim: Network, remedy: BUG, run: interfaces },
    Check { name: "a1_find_a_route_to_the_network", claim: Network, remedy: BUG, run: route },
    Check { name: "a1_open_vsock_packet_or_raw_sockets", claim: Network, remedy: FILTER, run: families },
];

fn loopback(facts: &Facts) -> Verdict {
    let port = match facts.get("loopback_port") {
        Ok(port) => port,
        Err(verdict) => return verdict,
    };
    first(["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"].map(|host| {
        let address = format!("{host}:{port}");
        broken_if(TcpStream::connect(&address).is_ok(), || format!("connected to {address}"))
    }))
}

fn abstract_socket(facts: &Facts) -> Verdict {
    match facts.get("abstract_name") {
        Ok(name) => {
            let connected = SocketAddr::from_abstract_name(name).and_then(|address| UnixStream::connect_addr(&address));
            broken_if(connected.is_ok(), || format!("connected to @{name}"))
        }
        Err(verdict) => verdict,
    }
}

fn socket_file(facts: &Facts) -> Verdict {
    let given = match facts.get("unix_path") {
        Ok(path) => path,
        Err(verdict) => return verdict,
    };
    first(
        [given, "/run/docker.sock", "/run/dbus/system_bus_socket", "/run/containerd/containerd.sock", "/dev/log"]
            .map(|path| broken_if(UnixStream::connect(path).is_ok(), || format!("connected to {path}"))),
    )
}

fn interfaces(_: &Facts) -> Verdict {
    match std::fs::read_to_string("/proc/net/dev") {
        Ok(text) => {
            let other = text.lines().skip(2).filter_map(|l| l.split_once(':')).map(|(name, _)| name.trim()).find(|n| *n != "lo");
            other.map_or(Verdict::Held, |name| Verdict::Broken(format!("sees the interface {name}")))
        }
        Err(error) => Verdict::NotTried(format!("/proc/net/dev: {error}")),
    }
}

fn route(_: &Facts) -> Verdict {
    // Addresses for documentation (RFC 5737, RFC 3849). Connecting a datagram socket sends nothing.
    first([("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")].map(|(from, to)| {
        let connected = UdpSocket::bind(from).and_then(|socket| socket.connect(to));
        broken_if(connected.is_ok(), || format!("has a route to {to}"))
    }))
}

fn families(_: &Facts) -> Verdict {
    first(
        [
            ("vsock", AF_VSOCK, libc::SOCK_STREAM, 0),
            ("packet", libc::AF_PACKET, libc::SOCK_RAW, 0),
            ("raw", libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
            ("netfilter", libc::AF_NETLINK, libc::SOCK_RAW, NETLINK_NETFILTER),
        ]
        .map(|(name, family, kind, protocol)| {
            broken_if(sys::socket(family, kind, protocol).is_ok(), || format!("opened a {name} socket"))
        }),
    )
}
