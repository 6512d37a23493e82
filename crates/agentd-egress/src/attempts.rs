//! Records the attempts that no socket of the gateway accepts: TCP connections and UDP datagrams to other ports.
//!
//! The kernel has already refused these attempts. The packets come from the sandbox, so they are hostile. Only the first 64 bytes
//! of a packet are read.

use crate::{
    error::GatewayError,
    gate::Gate,
    grant::Transport,
    guest::{GuestAttempt, GuestPort},
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
    transport: Transport,
    family: AddressFamily,
}

/// Takes over a raw socket of TCP or UDP.
///
/// # Errors
/// The descriptor is not a socket of this kind, or the event loop does not accept it.
pub(crate) fn take_over(socket: OwnedFd) -> Result<AttemptSocket, GatewayError> {
    check_type(&socket, SocketType::RAW)?;
    let protocol = sockopt::socket_protocol(&socket).map_err(GatewayError::socket)?;
    let transports = [(ipproto::TCP, Transport::Tcp), (ipproto::UDP, Transport::Udp)];
    let transport = transports.into_iter().find_map(|(of, transport)| (protocol == Some(of)).then_some(transport));
    let transport =
        transport.ok_or(GatewayError::Kind { expected: "SOCK_RAW of TCP or UDP", found: "SOCK_RAW of another protocol" })?;
    let family = sockopt::socket_domain(&socket).map_err(GatewayError::socket)?;
    pktinfo::enable(socket.as_fd()).map_err(GatewayError::socket)?;
    rustix::io::ioctl_fionbio(&socket, true).map_err(GatewayError::socket)?;
    // SAFETY: `OwnedFd` owns its descriptor and returns the same one during its whole lifetime.
    let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    let socket = registered.map_err(|error| GatewayError::socket(error.into_parts().1))?;
    Ok(AttemptSocket { socket, transport, family })
}

/// Records attempts until the gateway stops.
pub(crate) async fn record(gate: Arc<Gate>, from: AttemptSocket) {
    let all = async {
        loop {
            match from.next().await {
                Ok(Some(attempt)) if add(&gate, &attempt) => {
                    gate.attempts.turn().await;
                }
                // A packet with another record, such as a datagram of a granted flow, does not count.
                Ok(_) => tokio::task::coop::consume_budget().await,
                Err(error) => pause(error, "receive a packet of a sandbox").await,
            }
        }
    };
    tokio::select! {
        () = all => {}
        () = gate.stopped() => {}
    }
    // Records the attempts that are still queued in the sockets. The sizes of the sockets' buffers bound their number.
    while let Ok(attempt) = from.receive() {
        if let Some(attempt) = attempt {
            add(&gate, &attempt);
        }
    }
}

/// A packet that a raw socket received.
pub(crate) struct Attempt {
    pub(crate) transport: Transport,
    /// The port of the sender. `None` if a guest reports the attempt.
    from: Option<u16>,
    pub(crate) wanted: SocketAddr,
}

impl Attempt {
    fn of_guest(attempt: GuestAttempt) -> Self {
        let GuestAttempt { udp, to } = attempt;
        let transport = if udp { Transport::Udp } else { Transport::Tcp };
        Self { transport, from: None, wanted: SocketAddr::new(to.ip().to_canonical(), to.port()) }
    }

    /// Returns true if a socket of DNS received or sent the packet. No program can bind the port.
    pub(crate) fn is_dns(&self) -> bool {
        self.wanted.port() == DNS || (self.transport == Transport::Udp && self.from == Some(DNS))
    }
}

/// Records the attempts that the agent of a guest reports, until the gateway stops.
pub(crate) async fn record_of_guest(gate: Arc<Gate>, port: Arc<GuestPort>) {
    let record = |attempt| {
        // The agent listens at each TCP port that was granted.
        gate.grants().iter().for_each(|grant| gate.add_port(grant.transport(), grant.port));
        add(&gate, &Attempt::of_guest(attempt))
    };
    let all = async {
        loop {
            if record(port.attempts.next().await) {
                gate.attempts.turn().await;
            } else {
                tokio::task::coop::consume_budget().await;
            }
        }
    };
    tokio::select! {
        () = all => {}
        () = gate.stopped() => {}
    }
    while let Some(attempt) = port.attempts.pop() {
        record(attempt);
    }
}

impl AttemptSocket {
    /// Waits for a packet. Returns `None` if no packet is left, or if the packet is too short for its ports.
    pub(crate) async fn next(&self) -> io::Result<Option<Attempt>> {
        let mut ready = self.socket.readable().await?;
        ready.try_io(|_| self.receive()).unwrap_or(Ok(None))
    }

    /// Receives one packet without waiting, like [`AttemptSocket::next`].
    fn receive(&self) -> io::Result<Option<Attempt>> {
        let mut packet = [0; MAX_BYTES];
        let datagram = pktinfo::receive(&self.socket, &mut packet)?;
        let ports = packet.get(..datagram.length).and_then(|packet| ports(self.family, packet));
        let attempt =
            |(from, to)| Attempt { transport: self.transport, from: Some(from), wanted: SocketAddr::new(datagram.to, to) };
        Ok(ports.map(attempt))
    }
}

/// Records an attempt. Returns false if the packet is not an attempt, or has another record.
fn add(gate: &Gate, attempt: &Attempt) -> bool {
    let Attempt { transport, from, wanted } = *attempt;
    // What arrives at a socket of the gateway has another record. A datagram from such a port is an answer of the gateway to a
    // program that chose an unusual source address, because no program can bind the port.
    let is_answer = transport == Transport::Udp && from.is_some_and(|from| gate.has_port(transport, from));
    if attempt.is_dns() || gate.has_port(transport, wanted.port()) || is_answer || is_own(wanted.ip()) {
        return false;
    }
    let name = is_synthetic(wanted.ip()).then(|| gate.names().name_of(wanted.ip()).map(ToString::to_string)).flatten();
    let (kind, refusal) = match transport {
        Transport::Tcp => (FlowKind::Tcp, FlowRefusal::NotGranted),
        Transport::Udp if from.is_none() => (FlowKind::Udp, FlowRefusal::UdpInMachine),
        Transport::Udp => (FlowKind::Udp, FlowRefusal::Udp),
    };
    let verdict = FlowVerdict::Refused(refusal);
    gate.log.add(FlowRecord { name, ..FlowRecord::new(SystemTime::now(), Duration::ZERO, kind, wanted, verdict) });
    true
}

/// Reads the source and destination port of a packet. A raw socket receives the header of IPv4 (RFC 791), but not that of IPv6.
fn ports(family: AddressFamily, packet: &[u8]) -> Option<(u16, u16)> {
    let start = if family == AddressFamily::INET { usize::from(packet.first()? & 0xf) * 4 } else { 0 };
    let [a, b, c, d]: [u8; 4] = packet.get(start..start + 4)?.try_into().ok()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ports_of_a_packet_are_read() {
        let bytes = [0xc0, 1, 0x20, 0xfb];
        assert_eq!(ports(AddressFamily::INET6, &bytes), Some((49153, 8443)));
        for words in [5, 15] {
            let mut head = vec![0; usize::from(words) * 4];
            head[0] = 0x40 | words;
            assert_eq!(ports(AddressFamily::INET, &[&head[..], &bytes].concat()), Some((49153, 8443)));
            assert_eq!(ports(AddressFamily::INET, &head), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..MAX_BYTES)) {
            ports(AddressFamily::INET, &bytes);
            ports(AddressFamily::INET6, &bytes);
        }
    }
}
