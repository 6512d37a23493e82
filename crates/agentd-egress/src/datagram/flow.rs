//! One flow of datagrams, from its first datagram to its record.

use super::{
    path::{DatagramKey, OpenedFlow, WaitingDatagram},
    unspecified,
};
use crate::{
    flow::{Cut, Wanted, broken, verdict_of},
    gate::Gate,
    grant::{Access, NetGrants, Transport},
    pktinfo,
    progress::Progress,
    reach::unreachable,
    record::{FlowEnd, FlowKind, FlowRefusal},
    resolve::permitted,
};
use agentd_log::LogFailure as _;
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

/// A flow that a grant allows.
pub(super) struct DatagramFlow {
    gate: Arc<Gate>,
    /// The socket in the namespace of the sandbox.
    inside: Arc<UdpSocket>,
    key: DatagramKey,
    target: Wanted,
    access: Access,
    id: u64,
    queue: mpsc::Receiver<WaitingDatagram>,
    displaced: Option<oneshot::Receiver<()>>,
    progress: Arc<Progress>,
}

impl DatagramFlow {
    pub(super) fn new(
        gate: Arc<Gate>,
        inside: Arc<UdpSocket>,
        key: DatagramKey,
        target: Wanted,
        access: Access,
        opened: OpenedFlow,
    ) -> Self {
        let OpenedFlow { id, queue, displaced } = opened;
        let mut progress = Progress::new(&gate, FlowKind::Udp, key.wanted, false);
        progress.name = target.name().map(ToString::to_string);
        let (displaced, progress) = (Some(displaced), Arc::new(progress));
        Self { gate, inside, key, target, access, id, queue, displaced, progress }
    }

    /// Carries the flow, and records it.
    pub(super) async fn serve(mut self) {
        let (gate, progress) = (self.gate.clone(), self.progress.clone());
        let (target, port, rule) = (self.target.clone(), self.key.wanted.port(), self.access.rule.clone());
        let is_granted = |grants: &NetGrants| {
            let address = progress.peer().map(|address| [address.ip()]);
            target.access(grants, Transport::Udp, port).is_some()
                && address.is_none_or(|address| permitted(grants, Transport::Udp, &address, port).is_ok())
        };
        let displaced = self.displaced.take();
        let displaced = async {
            if let Some(displaced) = displaced {
                // Nothing is sent. The channel closes.
                let _ = displaced.await;
            }
        };
        let ended = tokio::select! {
            // After a change of the grants, no datagram is carried before this check.
            biased;
            end = gate.withdrawn(is_granted) => Err(Cut::End(end)),
            () = gate.budget.exhausted() => Err(Cut::Refused(FlowRefusal::UsedUp)),
            () = displaced => Err(Cut::End(FlowEnd::Displaced)),
            ended = self.run() => ended,
            never = progress.report(&gate.log, &rule) => match never {},
        };
        gate.datagrams.close(&self.key, self.id);
        let connected = progress.peer().is_some();
        gate.log.add(progress.record(verdict_of(rule, ended, connected)));
    }

    /// Carries datagrams until none has passed for the idle limit.
    async fn run(&mut self) -> Result<(), Cut> {
        let outside = timeout(self.gate.limits.connect, self.reach()).await;
        let outside = outside.unwrap_or_else(|_| Err(unreachable(&io::ErrorKind::TimedOut.into())))?;
        loop {
            tokio::select! {
                datagram = self.queue.recv() => match datagram {
                    Some(datagram) => self.send(&outside, datagram).await?,
                    None => return Err(Cut::End(FlowEnd::Displaced)),
                },
                ready = outside.readable() => {
                    ready.map_err(|error| broken(&error))?;
                    self.answer(&outside).await?;
                }
                () = sleep(self.gate.limits.datagram_idle) => return Err(Cut::End(FlowEnd::Idle)),
            }
        }
    }

    /// Returns a socket that is connected to the destination. The name is resolved once for a flow.
    async fn reach(&self) -> Result<UdpSocket, Cut> {
        let _turn = self.gate.connecting.acquire().await;
        let addresses = match &self.target {
            Wanted::Name(name) => self.gate.resolve(name).await.map_err(|error| unreachable(&error))?,
            Wanted::Address(address) => vec![*address],
        };
        let destinations = permitted(&self.gate.grants(), Transport::Udp, &addresses, self.key.wanted.port())?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for destination in destinations {
            match connected(destination).await {
                Ok(socket) => {
                    // The destination is set only here.
                    let _ = self.progress.connected.set(Some(destination));
                    self.progress.record_open(&self.gate.log, &self.access.rule);
                    return Ok(socket);
                }
                Err(error) => last = error,
            }
        }
        Err(unreachable(&last))
    }

    /// Sends a datagram to the destination. A datagram that is too long for the network is dropped.
    async fn send(&self, outside: &UdpSocket, datagram: WaitingDatagram) -> Result<(), Cut> {
        self.progress.sent.wait().await;
        if !self.progress.sent.spend_whole(datagram.bytes.len()) {
            return Err(Cut::Refused(FlowRefusal::UsedUp));
        }
        match outside.send(&datagram.bytes).await {
            Ok(length) => {
                self.progress.datagrams.sent.fetch_add(1, Ordering::Relaxed);
                self.progress.sent.count(length);
                Ok(())
            }
            Err(error) if is_of_one_datagram(&error) => Ok(()),
            Err(error) => Err(broken(&error)),
        }
    }

    /// Passes one datagram of the destination to the program.
    async fn answer(&self, outside: &UdpSocket) -> Result<(), Cut> {
        self.progress.received.wait().await;
        let mut buffer = self.gate.datagrams.buffer();
        let length = match outside.try_recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(broken(&error)),
        };
        if !self.progress.received.spend_whole(length) {
            return Err(Cut::Refused(FlowRefusal::UsedUp));
        }
        let bytes = buffer.get(..length).unwrap_or_default();
        // If the program receives too slowly or has gone, the datagram is dropped.
        let sent = pktinfo::send(&*self.inside, bytes, self.key.client, self.key.wanted.ip());
        if sent.or_debug("pass a datagram to a sandbox", self.key.client).is_some() {
            self.progress.datagrams.received.fetch_add(1, Ordering::Relaxed);
            self.progress.received.count(length);
        }
        self.gate.datagrams.answered(&self.key, self.id);
        Ok(())
    }
}

async fn connected(destination: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(unspecified(destination.ip())).await?;
    socket.connect(destination).await?;
    Ok(socket)
}

/// Returns true if later datagrams can be sent: the datagram is too long, or the system has no memory for it now.
fn is_of_one_datagram(error: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    errno.is_some_and(|errno| [rustix::io::Errno::MSGSIZE, rustix::io::Errno::NOBUFS].contains(&errno))
}
