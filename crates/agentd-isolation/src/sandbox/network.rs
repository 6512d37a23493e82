//! Changes of the granted hosts of a running sandbox, and connections to its loopback.
//!
//! Both need sockets of the sandbox's network namespace. The supervisor creates them, because an ordinary user cannot join that
//! namespace from outside. This process binds and connects the sockets. It has all capabilities in the user namespace of the
//! sandbox, because its user created that namespace. The supervisor has none.

use super::SharedKernelSandbox;
use crate::egress;
use agentd_core::{Control, ControlError, ControlStatus, IsolationError, Network};
use agentd_egress::grant::Transport;
use agentd_kernel::gateway;
use agentd_supervisor::protocol::Request;
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketType, ipproto, sockopt},
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::fd::OwnedFd,
    time::Duration,
};
use tokio::{net::TcpSocket, time::timeout};

/// The time limit of a connection to the loopback. A connection takes a long time only if the program in the sandbox does not
/// accept its connections.
const CONNECT: Duration = Duration::from_secs(10);

impl SharedKernelSandbox {
    /// See [`agentd_core::Sandbox::set_network`].
    pub(super) async fn change_network(&self, network: &Network) -> Result<(), IsolationError> {
        let (Some(gateway), Some(grants)) = (&self.gateway, egress::grants(network)?) else {
            return Err(egress::no_hosts());
        };
        let change = gateway.begin_change(&grants).await?;
        let mut sockets = Vec::new();
        for (transport, port, v6) in change.missing() {
            sockets.push(self.bound(transport, port, v6).await?);
        }
        change.apply(sockets)
    }

    /// Returns a TCP socket that listens in the sandbox's network namespace, at the port of every IPv4 address, or of every IPv6
    /// address with `v6`.
    ///
    /// # Errors
    /// [`IsolationError::Invalid`] if a program in the sandbox listens there. Otherwise, the failed call or the loss of the
    /// sandbox.
    pub async fn listen_at(&self, port: u16, v6: bool) -> Result<OwnedFd, IsolationError> {
        self.bound(Transport::Tcp, port, v6).await
    }

    /// Returns a socket for a granted port: as [`SharedKernelSandbox::listen_at`], or a bound UDP socket.
    async fn bound(&self, transport: Transport, port: u16, v6: bool) -> Result<OwnedFd, IsolationError> {
        let socket = self.socket(transport, v6).await?;
        gateway::listen_at(&socket, v6, port).map_err(|errno| match errno {
            Errno::ADDRINUSE => invalid(
                &format!("grant of port {port}"),
                "a program in the sandbox listens on this port — end that program, then try again",
            ),
            other => failed(&format!("bind port {port} in the sandbox"), other),
        })?;
        Ok(socket)
    }

    /// See [`agentd_core::Sandbox::connect`].
    pub(super) async fn connect_to_loopback(&self, port: u16) -> Result<OwnedFd, IsolationError> {
        let what = format!("port {port}");
        let own =
            |report: &&agentd_core::ControlReport| report.control == Control::Network && report.status == ControlStatus::Enforced;
        if self.controls.iter().find(own).is_none() {
            return Err(invalid(&what, "the sandbox uses the host's network — connect to the port on the host"));
        }
        if let Some(gateway) = &self.gateway
            && gateway.listens_at(port).await
        {
            return Err(invalid(
                &what,
                "the gateway to the granted hosts listens on this port in the sandbox — use another port",
            ));
        }
        let io = |source| IsolationError::Io { context: format!("connect to port {port} of the sandbox's loopback"), source };
        let connected = self.connect_in_family(port, false).await?;
        let connected = match connected {
            // A server may listen at the IPv6 loopback only.
            Err(first) => self.connect_in_family(port, true).await?.map_err(|_| first),
            connected => connected,
        };
        connected.map(OwnedFd::from).map_err(io)
    }

    async fn connect_in_family(&self, port: u16, v6: bool) -> Result<io::Result<TcpStream>, IsolationError> {
        let loopback = if v6 { IpAddr::V6(Ipv6Addr::LOCALHOST) } else { IpAddr::V4(Ipv4Addr::LOCALHOST) };
        let socket = match self.socket(Transport::Tcp, v6).await {
            Err(IsolationError::Control(ControlError { errno: Some(errno), .. })) => {
                return Ok(Err(io::Error::from_raw_os_error(errno)));
            }
            socket => socket?,
        };
        let connect = async {
            rustix::io::ioctl_fionbio(&socket, true)?;
            let connecting = TcpSocket::from_std_stream(TcpStream::from(socket)).connect(SocketAddr::new(loopback, port));
            timeout(CONNECT, connecting).await??.into_std()
        };
        Ok(connect.await)
    }

    /// Returns an unbound socket of the sandbox's network namespace.
    ///
    /// # Errors
    /// [`IsolationError::Control`] with the errno if the sandbox has no such sockets. [`IsolationError::Protocol`] if the
    /// supervisor sent another descriptor. Otherwise, the loss of the sandbox.
    async fn socket(&self, transport: Transport, v6: bool) -> Result<OwnedFd, IsolationError> {
        let socket = self.opened(|id| Request::Socket { id, v6, udp: transport == Transport::Udp }).await?;
        let socket = socket.map_err(|errno| failed("create a socket in the sandbox", Errno::from_raw_os_error(errno)))?;
        let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
        let (kind, protocol) = match transport {
            Transport::Tcp => (SocketType::STREAM, ipproto::TCP),
            Transport::Udp => (SocketType::DGRAM, ipproto::UDP),
        };
        let is_requested = sockopt::socket_domain(&socket) == Ok(family)
            && sockopt::socket_type(&socket) == Ok(kind)
            && sockopt::socket_protocol(&socket) == Ok(Some(protocol));
        if is_requested {
            return Ok(socket);
        }
        Err(IsolationError::Protocol("the supervisor sent a descriptor that is not the requested socket".to_owned()))
    }
}

fn invalid(what: &str, reason: &str) -> IsolationError {
    IsolationError::Invalid { what: what.to_owned(), reason: reason.to_owned() }
}

fn failed(call: &str, errno: Errno) -> IsolationError {
    ControlError::new(Control::Network, call, Some(errno.raw_os_error())).into()
}
