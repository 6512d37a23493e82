//! The record of attempts that no socket of the gateway accepts: TCP connections to other ports, and UDP.
//!
//! The kernel has refused them already. The packets are from the sandbox, hostile, and cut off after 64 bytes.

use crate::{
    error::GatewayError,
    gate::Gate,
    listen::{check_type, pause},
    pktinfo,
    record::{FlowKind, FlowRecord, FlowRefusal, FlowVerdict},
    synthetic::{is_own, is_synthetic},
};
use rustix::net::{AddressFamily, SocketType, ipproto, sockopt};
use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::io::{Interest, unix::AsyncFd};

/// The number of bytes that are read from a packet at most.
const MAX_BYTES: usize = 64;
const DNS: u16 = 53;

/// A raw socket, with the protocol and the address family of its packets.
pub(crate) struct AttemptSocket {
    socket: AsyncFd<OwnedFd>,
    kind: FlowKind,
    family: AddressFamily,
}

/// Takes over a raw socket of TCP or UDP.
///
/// # Errors
/// The descriptor is another kind of socket, or the event loop does not accept it.
pub(crate) fn take_over(socket: OwnedFd) -> Result<AttemptSocket, GatewayError> {
    check_type(&socket, SocketType::RAW)?;
    let protocol = sockopt::socket_protocol(&socket).map_err(GatewayError::socket)?;
    let kinds = [(ipproto::TCP, FlowKind::Tcp), (ipproto::UDP, FlowKind::Udp)];
    let kind = kinds.into_iter().find_map(|(of, kind)| (protocol == Some(of)).then_some(kind));
    let kind = kind.ok_or(GatewayError::Kind { expected: "SOCK_RAW of TCP or UDP", found: "SOCK_RAW of another protocol" })?;
    let family = sockopt::socket_domain(&socket).map_err(GatewayError::socket)?;
    pktinfo::enable(socket.as_fd()).map_err(GatewayError::socket)?;
    rustix::io::ioctl_fionbio(&socket, true).map_err(GatewayError::socket)?;
    // SAFETY: `OwnedFd` owns its descriptor and returns the same one during its whole lifetime.
    let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    let socket = registered.map_err(|error| GatewayError::socket(error.into_parts().1))?;
    Ok(AttemptSocket { socket, kind, family })
}

/// Records attempts until the gateway stops.
pub(crate) async fn record(gate: Arc<Gate>, from: AttemptSocket) {
    let all = async {
        loop {
            gate.attempts.turn().await;
            let received = match from.socket.readable().await {
                Ok(mut ready) => ready.try_io(|_| from.receive()),
                Err(error) => Ok(Err(error)),
            };
            match received {
                Ok(Ok(wanted)) => from.add(&gate, wanted),
                Ok(Err(error)) => pause(error, "receive a packet of a sandbox").await,
                // No packet is left.
                Err(_) => {}
            }
        }
    };
    tokio::select! {
        () = all => {}
        () = gate.stopped() => {}
    }
    // Records the attempts that are still queued in the sockets. The sizes of the sockets' buffers bound their number.
    while let Ok(wanted) = from.receive() {
        from.add(&gate, wanted);
    }
}

impl AttemptSocket {
    /// Receives one packet without waiting. Returns its destination, or `None` if the packet is too short for a port.
    fn receive(&self) -> io::Result<Option<SocketAddr>> {
        let mut packet = [0; MAX_BYTES];
        let datagram = pktinfo::receive(&self.socket, &mut packet)?;
        let port = packet.get(..datagram.length).and_then(|packet| port(self.family, packet));
        Ok(port.map(|port| SocketAddr::new(datagram.to, port)))
    }

    fn add(&self, gate: &Gate, wanted: Option<SocketAddr>) {
        if let Some(wanted) = wanted {
            add(gate, self.kind, wanted);
        }
    }
}

fn add(gate: &Gate, kind: FlowKind, wanted: SocketAddr) {
    // A connection to a granted port has another record, and so has a DNS query.
    let is_accepted = kind == FlowKind::Tcp && gate.grants().iter().any(|grant| grant.port == wanted.port());
    if is_accepted || wanted.port() == DNS || is_own(wanted.ip()) {
        return;
    }
    let name = is_synthetic(wanted.ip()).then(|| gate.names().name_of(wanted.ip()).map(ToString::to_string)).flatten();
    gate.log.add(FlowRecord {
        started: SystemTime::now(),
        lasted: Duration::ZERO,
        kind,
        name,
        request: None,
        wanted,
        connected: None,
        address_checked: true,
        sent: 0,
        received: 0,
        verdict: FlowVerdict::Refused(if kind == FlowKind::Udp { FlowRefusal::Udp } else { FlowRefusal::NotGranted }),
    });
}

/// Reads the port of the destination of a packet. A raw socket receives the header of IPv4 (RFC 791), but not that of IPv6.
fn port(family: AddressFamily, packet: &[u8]) -> Option<u16> {
    let start = if family == AddressFamily::INET { usize::from(packet.first()? & 0xf) * 4 } else { 0 };
    Some(u16::from_be_bytes(packet.get(start + 2..start + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn port_of_a_packet_is_read() {
        let ports = [0xc0, 1, 0x20, 0xfb];
        assert_eq!(port(AddressFamily::INET6, &ports), Some(8443));
        for words in [5, 15] {
            let mut head = vec![0; usize::from(words) * 4];
            head[0] = 0x40 | words;
            assert_eq!(port(AddressFamily::INET, &[&head[..], &ports].concat()), Some(8443));
            assert_eq!(port(AddressFamily::INET, &head), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..MAX_BYTES)) {
            port(AddressFamily::INET, &bytes);
            port(AddressFamily::INET6, &bytes);
        }
    }
}
