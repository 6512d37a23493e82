//! Serves the DNS of a sandbox over UDP and TCP, and to the agent of a guest.

use super::{DnsAnswer, MAX_QUERY, answer};
use crate::{
    budget::Meter,
    gate::Gate,
    guest::{GuestPort, GuestQuery},
    inspect::wire::Wire,
    listen::pause,
    pktinfo::{self, Datagram},
    record::{FlowKind, FlowRecord, FlowVerdict},
    socket::Client,
};
use agentd_core::DelayedBy;
use agentd_log::LogFailure as _;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::UdpSocket,
    time::timeout,
};

/// The port of DNS.
pub(crate) const PORT: u16 = 53;

/// Answers datagrams until the gateway stops.
pub(crate) async fn udp(gate: Arc<Gate>, socket: UdpSocket) {
    let all = async {
        let mut buffer = [0; MAX_QUERY];
        loop {
            match socket.async_io(Interest::READABLE, || pktinfo::receive(&socket, &mut buffer)).await {
                Ok(Datagram { length, whole: true, from, to }) => {
                    let delayed = gate.queries.turn().await;
                    let Some(bytes) = answered(&gate, &buffer[..length], to, delayed) else { continue };
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

/// Answers the queries that the agent of a guest passes, until the gateway stops.
pub(crate) async fn guest(gate: Arc<Gate>, port: Arc<GuestPort>) {
    let all = async {
        loop {
            let GuestQuery { to, bytes, reply } = port.queries.next().await;
            let delayed = gate.queries.turn().await;
            reply(answered(&gate, &bytes, to, delayed).unwrap_or_default());
        }
    };
    tokio::select! {
        () = all => {}
        () = gate.stopped() => {}
    }
}

/// Answers the queries of one TCP connection (RFC 7766). The limits on bytes do not concern queries.
pub(crate) async fn tcp(gate: Arc<Gate>, client: Client, _late: bool) {
    let all = async {
        let mut wire = Wire::new(client.socket.clone(), Vec::new(), Meter::unlimited());
        while let Ok(Ok(())) = timeout(gate.limits.first_bytes, one(&gate, &mut wire, client.wanted.ip())).await {}
    };
    tokio::select! {
        () = all => {}
        () = gate.stopped() => {}
    }
    client.close();
}

async fn one(gate: &Gate, client: &mut Wire, to: IpAddr) -> io::Result<()> {
    let length = usize::from(client.read_u16().await?);
    if length > MAX_QUERY {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut query = vec![0; length];
    client.read_exact(&mut query).await?;
    let delayed = gate.queries.turn().await;
    let bytes = answered(gate, &query, to, delayed).ok_or(io::ErrorKind::InvalidData)?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    client.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await
}

/// Returns the answer, and records a refused question. `delayed` is true if the limit on queries delayed the question.
fn answered(gate: &Gate, query: &[u8], to: IpAddr, delayed: bool) -> Option<Vec<u8>> {
    let DnsAnswer { bytes, refused } = answer(query, &gate.grants(), &mut gate.names())?;
    if let Some((name, refusal)) = refused {
        let (wanted, verdict) = (SocketAddr::new(to.to_canonical(), PORT), FlowVerdict::Refused(refusal));
        gate.log.add(FlowRecord {
            name: Some(name),
            sent: query.len() as u64,
            received: bytes.len() as u64,
            delayed: DelayedBy { queries: delayed, ..DelayedBy::default() },
            ..FlowRecord::new(SystemTime::now(), Duration::ZERO, FlowKind::Dns, wanted, verdict)
        });
    }
    Some(bytes)
}
