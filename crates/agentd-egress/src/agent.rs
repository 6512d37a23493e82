//! The sockets of a gateway that is outside of the machine of its sandbox. The agent in a virtual machine takes over these
//! sockets, and carries the connections and datagrams that arrive there to the host ([`crate::guest`]).

use crate::{
    attempts,
    dns::MAX_QUERY,
    error::GatewayError,
    grant::Transport,
    guest::GuestAttempt,
    listen::{self, pause},
    pktinfo::{self, Datagram},
};
use agentd_log::LogFailure as _;
use rustix::net::{SocketFlags, accept_with};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
};
use tokio::{
    io::Interest,
    net::{TcpListener, TcpStream, UdpSocket},
};

/// A listening TCP socket of a sandbox.
#[derive(Debug)]
pub struct AgentListener(TcpListener);

impl AgentListener {
    /// Takes over a socket. Call this function within an event loop of tokio.
    ///
    /// # Errors
    /// As [`Gateway::listen`](crate::Gateway::listen).
    pub fn new(socket: OwnedFd) -> Result<Self, GatewayError> {
        let listener = TcpListener::from_std(listen::listener(socket)?).map_err(GatewayError::socket)?;
        Ok(Self(listener))
    }

    /// Waits for a connection, and returns its destination too.
    pub async fn accept(&self) -> (TcpStream, SocketAddr) {
        loop {
            match self.0.accept().await.and_then(|(client, _)| with_destination(client)) {
                Ok(accepted) => return accepted,
                Err(error) => pause(error, "accept a connection of a sandbox").await,
            }
        }
    }

    /// Returns a connection that waits in the kernel, if there is one.
    pub fn waiting(&self) -> Option<(TcpStream, SocketAddr)> {
        // Calls accept4(2) directly, because the event loop may not have reported a waiting connection yet.
        loop {
            let client = accept_with(&self.0, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).ok()?;
            if let Ok(accepted) = TcpStream::from_std(client.into()).and_then(with_destination) {
                return Some(accepted);
            }
        }
    }
}

fn with_destination(client: TcpStream) -> io::Result<(TcpStream, SocketAddr)> {
    let to = client.local_addr()?;
    client.set_nodelay(true)?;
    Ok((client, to))
}

/// A UDP socket of a sandbox, at port 53.
#[derive(Debug)]
pub struct AgentDatagrams(UdpSocket);

/// A datagram for port 53.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedQuery {
    /// The message.
    pub bytes: Vec<u8>,
    /// The sender.
    pub from: SocketAddr,
    /// The address to which the datagram was sent.
    pub to: IpAddr,
}

impl AgentDatagrams {
    /// Takes over a socket. Call this function within an event loop of tokio.
    ///
    /// # Errors
    /// The descriptor is not a UDP socket, or another program could bind its port.
    pub fn new(socket: OwnedFd) -> Result<Self, GatewayError> {
        Ok(Self(UdpSocket::from_std(listen::datagrams(socket)?).map_err(GatewayError::socket)?))
    }

    /// Waits for a datagram. Discards datagrams that are longer than a query can be.
    pub async fn receive(&self) -> ReceivedQuery {
        let mut buffer = [0; MAX_QUERY];
        loop {
            match self.0.async_io(Interest::READABLE, || pktinfo::receive(&self.0, &mut buffer)).await {
                Ok(Datagram { length, whole: true, from, to }) => {
                    return ReceivedQuery { bytes: buffer[..length].to_vec(), from, to };
                }
                Ok(_) => {}
                Err(error) => pause(error, "receive a DNS query of a sandbox").await,
            }
        }
    }

    /// Sends an answer to the sender of a query.
    pub fn answer(&self, bytes: &[u8], query: &ReceivedQuery) {
        // A client that does not get an answer asks again.
        pktinfo::send(&self.0, bytes, query.from, query.to).or_debug("answer a DNS query of a sandbox", query.from);
    }
}

/// A raw socket that receives attempts which the kernel refuses.
pub struct AgentAttempts(attempts::AttemptSocket);

impl AgentAttempts {
    /// Takes over a socket. Call this function within an event loop of tokio.
    ///
    /// # Errors
    /// The descriptor is not a raw socket of TCP or UDP.
    pub fn new(socket: OwnedFd) -> Result<Self, GatewayError> {
        attempts::take_over(socket).map(Self)
    }

    /// Waits for an attempt.
    pub async fn receive(&self) -> GuestAttempt {
        loop {
            match self.0.next().await {
                Ok(Some(attempt)) if !attempt.is_dns() => {
                    return GuestAttempt { udp: attempt.transport == Transport::Udp, to: attempt.wanted };
                }
                Ok(_) => {}
                Err(error) => pause(error, "receive a packet of a sandbox").await,
            }
        }
    }
}
