//! The sockets of a gateway, and the tasks that serve them.

use crate::{
    attempts,
    config::GatewaySockets,
    datagram, dns,
    error::GatewayError,
    flow,
    gate::Gate,
    grant::Transport,
    listen::{self, Listener},
};
use std::{io, sync::Arc};
use tokio::{
    net::{TcpListener, UdpSocket},
    runtime::Runtime,
    task::JoinSet,
};

/// A socket for a granted port.
pub(crate) enum NewSocket {
    Listener(std::net::TcpListener),
    Datagrams(std::net::UdpSocket),
}

/// The sockets and tasks of a gateway.
pub(crate) struct Taken {
    pub(crate) ports: GrantedPorts,
    /// The tasks that record attempts.
    pub(crate) attempts: JoinSet<()>,
}

/// The sockets of the granted ports, and the agent of a guest, which has such sockets.
#[derive(Default)]
pub(crate) struct GrantedPorts {
    pub(crate) listeners: Vec<Arc<Listener>>,
    pub(crate) datagrams: Vec<Arc<UdpSocket>>,
}

impl GrantedPorts {
    /// Registers a socket with the event loop of this context, and spawns its task.
    ///
    /// # Errors
    /// The event loop does not accept the socket.
    pub(crate) fn add(&mut self, gate: &Arc<Gate>, socket: NewSocket) -> io::Result<()> {
        match socket {
            NewSocket::Listener(listener) => {
                let listener = TcpListener::from_std(listener)?;
                gate.add_port(Transport::Tcp, listener.local_addr()?.port());
                let listener = Arc::new(Listener::Kernel(listener));
                tokio::spawn(listen::accept(gate.clone(), listener.clone(), flow::serve));
                self.listeners.push(listener);
            }
            NewSocket::Datagrams(socket) => {
                let socket = Arc::new(UdpSocket::from_std(socket)?);
                gate.add_port(Transport::Udp, socket.local_addr()?.port());
                tokio::spawn(datagram::serve(gate.clone(), socket.clone()));
                self.datagrams.push(socket);
            }
        }
        Ok(())
    }
}

/// Registers the sockets with the event loop, and spawns their tasks. The tasks run once the event loop runs.
///
/// # Errors
/// A socket cannot be used.
pub(crate) fn take_over(runtime: &Runtime, gate: &Arc<Gate>, sockets: GatewaySockets) -> Result<Taken, GatewayError> {
    let _context = runtime.enter();
    let (mut ports, mut attempts) = (GrantedPorts::default(), JoinSet::new());
    for socket in sockets.tcp {
        ports.add(gate, NewSocket::Listener(listen::listener(socket)?)).map_err(GatewayError::socket)?;
    }
    for socket in sockets.udp {
        ports.add(gate, NewSocket::Datagrams(listen::datagrams(socket)?)).map_err(GatewayError::socket)?;
    }
    for socket in sockets.dns_tcp {
        let listener = TcpListener::from_std(listen::listener(socket)?).map_err(GatewayError::socket)?;
        runtime.spawn(listen::accept(gate.clone(), Arc::new(Listener::Kernel(listener)), dns::serve::tcp));
    }
    for socket in sockets.attempts {
        attempts.spawn(attempts::record(gate.clone(), attempts::take_over(socket)?));
    }
    for socket in sockets.dns_udp {
        let socket = listen::datagrams(socket)?;
        let socket = UdpSocket::from_std(socket).map_err(GatewayError::socket)?;
        runtime.spawn(dns::serve::udp(gate.clone(), socket));
    }
    if let Some(port) = sockets.guest {
        let listener = Arc::new(Listener::Guest(port.clone()));
        runtime.spawn(listen::accept(gate.clone(), listener.clone(), flow::serve_by_port));
        ports.listeners.push(listener);
        runtime.spawn(dns::serve::guest(gate.clone(), port.clone()));
        attempts.spawn(attempts::record_of_guest(gate.clone(), port));
    }
    Ok(Taken { ports, attempts })
}
