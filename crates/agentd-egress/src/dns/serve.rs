//! The sockets of the DNS.

use super::{DnsAnswer, MAX_QUERY, answer};
use crate::{
    error::GatewayError,
    gate::Gate,
    listen::{check, pause},
    pktinfo::{self, Datagram},
    record::{FlowKind, FlowRecord, FlowVerdict},
};
use agentd_log::LogFailure as _;
use rustix::net::SocketType;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// The port of DNS.
const PORT: u16 = 53;

/// Takes over a UDP socket.
///
/// # Errors
/// The descriptor is not a UDP socket, or another program could bind its port.
pub(crate) fn datagrams(socket: OwnedFd) -> Result<std::net::UdpSocket, GatewayError> {
    check(&socket, SocketType::DGRAM)?;
    pktinfo::enable(socket.as_fd()).map_err(GatewayError::socket)?;
    let socket = std::net::UdpSocket::from(socket);
    socket.set_nonblocking(true).map_err(GatewayError::socket)?;
    Ok(socket)
}

/// Answers datagrams until the gateway stops.
pub(crate) async fn udp(gate: Arc<Gate>, socket: UdpSocket) {
    let all = async {
        let mut buffer = [0; MAX_QUERY];
        loop {
            gate.queries.turn().await;
            match socket.async_io(Interest::READABLE, || pktinfo::receive(&socket, &mut buffer)).await {
                Ok(Datagram { length, whole: true, from, to }) => {
                    let Some(bytes) = answered(&gate, &buffer[..length], to) else { continue };
                    // A client that does not get an answer asks again.
                    pktinfo::send(&socket, &bytes, from, to).or_debug("answer a DNS query of a sandbox", from);
                }
                Ok(_) => {}
                Err(error) => pause(error, "receive a DNS query of a sandbox").await,
            }
        }
    };
    tokio::select! {
        () = all => {}
        () = gate.stopped() => {}
    }
}

/// Answers the queries of one TCP connection (RFC 7766).
pub(crate) async fn tcp(gate: Arc<Gate>, client: TcpStream) {
    let all = async {
        let Ok(to) = client.local_addr().map(|address| address.ip()) else { return };
        let mut client = client;
        while let Ok(Ok(())) = timeout(gate.limits.first_bytes, one(&gate, &mut client, to)).await {}
    };
    tokio::select! {
        () = all => {}
        () = gate.stopped() => {}
    }
}

async fn one(gate: &Gate, client: &mut TcpStream, to: IpAddr) -> io::Result<()> {
    let length = usize::from(client.read_u16().await?);
    if length > MAX_QUERY {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut query = vec![0; length];
    client.read_exact(&mut query).await?;
    gate.queries.turn().await;
    let bytes = answered(gate, &query, to).ok_or(io::ErrorKind::InvalidData)?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    client.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await
}

/// Returns the answer, and records a refused question.
fn answered(gate: &Gate, query: &[u8], to: IpAddr) -> Option<Vec<u8>> {
    let DnsAnswer { bytes, refused } = answer(query, &gate.grants(), &mut gate.names())?;
    if let Some((name, refusal)) = refused {
        gate.log.add(FlowRecord {
            started: SystemTime::now(),
            lasted: Duration::ZERO,
            kind: FlowKind::Dns,
            name: Some(name),
            wanted: SocketAddr::new(to.to_canonical(), PORT),
            connected: None,
            address_checked: true,
            sent: query.len() as u64,
            received: bytes.len() as u64,
            request: None,
            verdict: FlowVerdict::Refused(refusal),
        });
    }
    Some(bytes)
}
