//! The record of attempts that no socket of the gateway accepts: TCP connections to other ports, and UDP.
//!
//! The kernel has refused them already. The packets are from the sandbox, hostile, and cut off after 64 bytes.

use crate::{
    error::GatewayError,
    gate::Gate,
    limits::Pace,
    listen::pause,
    record::{FlowKind, FlowRecord, FlowRefusal, FlowVerdict},
    synthetic::{is_own, is_synthetic},
};
use rustix::net::{RecvFlags, recv};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::io::{Interest, unix::AsyncFd};

/// The maximum number of attempts that are read per second. Others wait in the socket, and the kernel drops what does not fit.
const PER_SECOND: u32 = 200;
/// The number of bytes that are read from a packet at most.
const MAX_BYTES: usize = 64;
const DNS: u16 = 53;

/// Takes over a packet socket, which does not block.
///
/// # Errors
/// The descriptor cannot be watched.
pub(crate) fn take_over(socket: OwnedFd) -> Result<AsyncFd<OwnedFd>, GatewayError> {
    rustix::io::ioctl_fionbio(&socket, true).map_err(GatewayError::socket)?;
    // SAFETY: `OwnedFd` owns its descriptor and returns the same one during its whole lifetime.
    let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    registered.map_err(|error| GatewayError::socket(error.into_parts().1))
}

/// Records attempts until the gateway stops.
pub(crate) async fn record(gate: Arc<Gate>, socket: AsyncFd<OwnedFd>) {
    let pace = Pace::new(PER_SECOND);
    let all = async {
        let mut packet = [0; MAX_BYTES];
        loop {
            pace.turn().await;
            let received = match socket.readable().await {
                Ok(mut ready) => ready.try_io(|socket| Ok(recv(socket.get_ref(), &mut packet, RecvFlags::empty())?.0)),
                Err(error) => Ok(Err(error)),
            };
            match received {
                Ok(Ok(length)) => {
                    if let Some((kind, wanted)) = packet.get(..length).and_then(attempt) {
                        add(&gate, kind, wanted);
                    }
                }
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
    // The last attempts of the programs. The buffer of the socket bounds their number.
    let mut packet = [0; MAX_BYTES];
    while let Ok((length, _)) = recv(socket.get_ref(), &mut packet, RecvFlags::DONTWAIT) {
        if let Some((kind, wanted)) = packet.get(..length).and_then(attempt) {
            add(&gate, kind, wanted);
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

/// Reads kind and destination from the start of an IP packet (RFC 791, RFC 8200). A later fragment has no ports.
fn attempt(packet: &[u8]) -> Option<(FlowKind, SocketAddr)> {
    let first = *packet.first()?;
    let (protocol, address, ports): (u8, IpAddr, usize) = match first >> 4 {
        4 => {
            let is_first = u16::from_be_bytes(packet.get(6..8)?.try_into().ok()?) & 0x1fff == 0;
            let octets: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            let header = usize::from(first & 0xf) * 4;
            (*packet.get(9).filter(|_| is_first)?, Ipv4Addr::from(octets).into(), header)
        }
        6 => {
            let octets: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            (*packet.get(6)?, Ipv6Addr::from(octets).into(), 40)
        }
        _ => return None,
    };
    let port = u16::from_be_bytes(packet.get(ports + 2..ports + 4)?.try_into().ok()?);
    let kind = match protocol {
        6 => FlowKind::Tcp,
        17 => FlowKind::Udp,
        _ => return None,
    };
    Some((kind, SocketAddr::new(address, port)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4(protocol: u8, fragment: u8) -> Vec<u8> {
        let head = [0x45, 0, 0, 40, 0, 0, 0, fragment, 64, protocol, 0, 0, 198, 18, 0, 2, 93, 184, 216, 34];
        [&head[..], &[0xc0, 1, 0x20, 0xfb]].concat()
    }

    #[test]
    fn destination_of_a_packet_is_read() {
        let wanted = "93.184.216.34:8443".parse().unwrap();
        assert_eq!(attempt(&v4(6, 0)), Some((FlowKind::Tcp, wanted)));
        assert_eq!(attempt(&v4(17, 0)), Some((FlowKind::Udp, wanted)));
        assert_eq!((attempt(&v4(1, 0)), attempt(&v4(17, 9))), (None, None));
        let mut v6 = vec![0; 44];
        v6[0] = 0x60;
        v6[6] = 17;
        v6[24..26].copy_from_slice(&[0x26, 6]);
        v6[42..].copy_from_slice(&[1, 0xbb]);
        assert_eq!(attempt(&v6), Some((FlowKind::Udp, "[2606::]:443".parse().unwrap())));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..MAX_BYTES)) {
            attempt(&bytes);
        }
    }
}
