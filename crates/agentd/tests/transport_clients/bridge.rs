//! A TCP listener on loopback that forwards connections to a Unix socket, for clients that cannot name one.

use std::{
    io::copy,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    thread,
};

pub struct Bridge {
    pub address: SocketAddr,
}

impl Bridge {
    /// Starts the listener, which lasts until the end of the process.
    pub fn start(socket: &Path) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let socket = socket.to_owned();
        thread::spawn(move || {
            for client in listener.incoming() {
                forward(client.unwrap(), &socket);
            }
        });
        Self { address }
    }
}

fn forward(client: TcpStream, socket: &Path) {
    let server = UnixStream::connect(socket).unwrap();
    let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    thread::spawn(move || {
        let _ = copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let (mut from_server, mut to_client) = (server, client);
    thread::spawn(move || {
        let _ = copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
    });
}
