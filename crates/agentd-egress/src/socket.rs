//! The sockets of a flow: a TCP connection, or one end of a socket pair. The other end of a pair carries a connection in a
//! virtual machine.

use crate::guest::GuestConnection;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    future::pending,
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{
    io::Interest,
    net::{TcpStream, UnixStream},
    sync::{oneshot, watch},
};

/// A connected stream socket. Both kinds have the same operations.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Pair(UnixStream),
}

impl Socket {
    /// Returns true if the other end has closed the connection, or its sending side (`poll(2)`, `POLLRDHUP`).
    pub(crate) fn has_hung_up(&self) -> bool {
        let descriptor = match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Pair(socket) => socket.as_fd(),
        };
        let ended = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut polled = [PollFd::from_borrowed_fd(descriptor, ended)];
        // If the call fails, the next use of the socket reports the cause.
        poll(&mut polled, Some(&Timespec::default())).is_ok() && polled[0].revents().intersects(ended)
    }

    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.readable().await,
            Self::Pair(socket) => socket.readable().await,
        }
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.writable().await,
            Self::Pair(socket) => socket.writable().await,
        }
    }

    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => socket.poll_read_ready(cx),
            Self::Pair(socket) => socket.poll_read_ready(cx),
        }
    }

    pub(crate) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => socket.poll_write_ready(cx),
            Self::Pair(socket) => socket.poll_write_ready(cx),
        }
    }

    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_read(buffer),
            Self::Pair(socket) => socket.try_read(buffer),
        }
    }

    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_write(bytes),
            Self::Pair(socket) => socket.try_write(bytes),
        }
    }

    pub(crate) fn try_io<R>(&self, interest: Interest, call: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        match self {
            Self::Tcp(socket) => socket.try_io(interest, call),
            Self::Pair(socket) => socket.try_io(interest, call),
        }
    }

    pub(crate) async fn async_io<R>(&self, interest: Interest, call: impl FnMut() -> io::Result<R>) -> io::Result<R> {
        match self {
            Self::Tcp(socket) => socket.async_io(interest, call).await,
            Self::Pair(socket) => socket.async_io(interest, call).await,
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Pair(socket) => socket.as_fd(),
        }
    }
}

/// A connection of the sandbox.
pub(crate) struct Client {
    /// Dropped before the socket, so that the other end of a pair never takes a reset for the end of one direction.
    ends: Option<GuestEnds>,
    pub(crate) socket: Arc<Socket>,
    /// The destination that the program chose. In a virtual machine, this is an unverified statement of the guest.
    pub(crate) wanted: SocketAddr,
}

/// The state of a connection in a virtual machine that the bytes of a socket pair cannot carry.
struct GuestEnds {
    broken: oneshot::Receiver<String>,
    complete: watch::Sender<bool>,
}

impl Client {
    /// Returns a connection that a listener of this kernel has accepted. `None` if the destination is unknown, because the
    /// connection was reset before it was accepted.
    pub(crate) fn accepted(socket: TcpStream) -> Option<Self> {
        let wanted = socket.local_addr().ok()?;
        // Small writes must leave at once, as they would without a gateway. If the call fails, the connection has ended already.
        let _ = socket.set_nodelay(true);
        Some(Self { ends: None, socket: Arc::new(Socket::Tcp(socket)), wanted: canonical(wanted) })
    }

    /// Returns a connection that an agent in a virtual machine has accepted.
    pub(crate) fn of_guest(connection: GuestConnection) -> io::Result<Self> {
        let GuestConnection { wanted, socket, broken, complete } = connection;
        socket.set_nonblocking(true)?;
        let socket = Arc::new(Socket::Pair(UnixStream::from_std(socket)?));
        Ok(Self { ends: Some(GuestEnds { broken, complete }), socket, wanted: canonical(wanted) })
    }

    /// Waits until the connection breaks in the guest, and returns the reason. A connection of this kernel reports that with the
    /// next call on its socket instead.
    pub(crate) async fn broken(&mut self) -> String {
        match &mut self.ends {
            Some(GuestEnds { broken, .. }) => match broken.await {
                Ok(why) => why,
                Err(_) => pending().await,
            },
            None => pending().await,
        }
    }

    /// Closes the connection after all its bytes were carried.
    pub(crate) fn close(self) {
        if let Some(ends) = self.ends {
            ends.complete.send_replace(true);
        }
    }

    /// Closes the connection with a reset, which shows the program that the data is incomplete. The agent of a guest resets each
    /// connection that [`Client::close`] has not closed.
    pub(crate) fn reset(self) {
        if let Socket::Tcp(socket) = &*self.socket {
            // If the call fails, the connection has ended already.
            let _ = socket.set_zero_linger();
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
