//! Carries UDP to the destinations that a grant names.
//!
//! A socket of the sandbox's namespace receives the datagrams to a granted port at every address. A *flow* is the datagrams
//! between one socket of a program and one destination. Each flow has a socket outside, which is connected to the destination, so
//! the kernel discards datagrams from other peers. An answer reaches the program from the address that the program used.
//!
//! `path` bounds the flows, and the datagrams that wait. A datagram that exceeds a bound is dropped, as in a network. `flow`
//! carries one flow until it is idle.

mod flow;
pub(crate) mod path;

use crate::{
    flow::{Wanted, target},
    gate::Gate,
    grant::Transport,
    listen::pause,
    record::{FlowKind, FlowRecord, FlowRefusal, FlowVerdict},
};
use flow::DatagramFlow;
use path::{DatagramKey, Received};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{io::Interest, net::UdpSocket};

/// Carries the datagrams that arrive at a socket, until the gateway stops.
pub(crate) async fn serve(gate: Arc<Gate>, socket: Arc<UdpSocket>) {
    let all = async {
        loop {
            match socket.async_io(Interest::READABLE, || gate.datagrams.receive(&socket)).await {
                Ok(received) => take(&gate, &socket, received).await,
                Err(error) => pause(error, "receive a datagram of a sandbox").await,
            }
            // A sandbox that always sends must not starve the flows.
            tokio::task::coop::consume_budget().await;
        }
    };
    tokio::select! {
        () = all => {}
        () = gate.stopped() => {}
    }
}

/// Takes the datagrams that wait in the kernel. Returns when no datagram waits.
pub(crate) async fn take_waiting(gate: &Arc<Gate>, socket: &Arc<UdpSocket>) {
    loop {
        match gate.datagrams.receive(socket) {
            Ok(received) => take(gate, socket, received).await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => pause(error, "receive a waiting datagram of a sandbox").await,
        }
    }
}

/// Passes a datagram to its flow, or starts a flow.
async fn take(gate: &Arc<Gate>, socket: &Arc<UdpSocket>, received: Received) {
    let Ok(port) = socket.local_addr().map(|address| address.port()) else { return };
    let Received { bytes, from, to } = received;
    let key = DatagramKey { client: from, wanted: SocketAddr::new(to, port) };
    // Without memory for another datagram, the datagram is dropped.
    let Some(waiting) = gate.datagrams.waiting(bytes) else { return };
    let Err(first) = gate.datagrams.deliver(&key, waiting) else { return };
    let (wanted, length) = (key.wanted, first.bytes.len());
    let target = match target(gate, wanted.ip()) {
        Ok(target) => target,
        Err(refusal) => return refuse(gate, None, wanted, length, refusal),
    };
    let Some(access) = target.access(&gate.grants(), Transport::Udp, port) else {
        return refuse(gate, Some(&target), wanted, length, FlowRefusal::Udp);
    };
    if !gate.accepted.try_turn() {
        return refuse(gate, Some(&target), wanted, length, FlowRefusal::TooManyFlows);
    }
    let admitted = match gate.admit() {
        Ok(permit) => permit,
        Err(refusal) => return refuse(gate, Some(&target), wanted, length, refusal),
    };
    // Ends the flow that was used least recently, if there are too many.
    let Some(permit) = gate.datagrams.permit().await else { return };
    let opened = gate.datagrams.open(key, first);
    let flow = DatagramFlow::new(gate.clone(), socket.clone(), key, target, access, opened);
    tokio::spawn(async move {
        flow.serve().await;
        drop((permit, admitted));
    });
}

/// Records a datagram that starts no flow. A flood of such datagrams is only counted.
fn refuse(gate: &Gate, target: Option<&Wanted>, wanted: SocketAddr, length: usize, refusal: FlowRefusal) {
    if !gate.attempts.try_turn() {
        return gate.log.add_dropped();
    }
    let name = target.and_then(Wanted::name).map(ToString::to_string);
    gate.log.add(FlowRecord {
        name,
        sent: length as u64,
        ..FlowRecord::new(SystemTime::now(), Duration::ZERO, FlowKind::Udp, wanted, FlowVerdict::Refused(refusal))
    });
}

/// Returns the unspecified address of the family of `address`, with port 0.
fn unspecified(address: IpAddr) -> SocketAddr {
    let unspecified: IpAddr = if address.is_ipv4() { [0_u8; 4].into() } else { [0_u8; 16].into() };
    SocketAddr::new(unspecified, 0)
}
