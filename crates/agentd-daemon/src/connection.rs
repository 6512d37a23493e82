//! One end of a connection between a client and the daemon.

use crate::protocol::MAX_FRAME;
use agentd_supervisor::channel::{Channel, ChannelError};
use rustix::io::Errno;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};
use tokio::{io::Interest, net};

/// A connection. The peer is a process of the same user, and the size of its frames is limited.
pub(crate) struct Connection {
    /// Waits until the socket is readable.
    ready: net::UnixStream,
    /// Reads and writes, over a second descriptor of the same socket.
    channel: Channel,
}

impl Connection {
    pub(crate) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let channel = Channel::new(socket.try_clone()?.into(), MAX_FRAME);
        Ok(Self { ready: net::UnixStream::from_std(socket)?, channel })
    }

    /// Sends one message, with descriptors attached.
    pub(crate) fn send<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        self.channel.send(message, fds)
    }

    /// Waits for exactly as many bytes as `buffer` has. The kernel closes descriptors that are attached to them. No message may
    /// have been received before. If the bytes have already arrived, the future completes when it is first polled.
    pub(crate) async fn receive_bytes(&self, buffer: &mut [u8]) -> Result<(), ChannelError> {
        let mut filled = match rustix::io::read(&self.channel, &mut *buffer) {
            Err(Errno::AGAIN) => 0,
            read => read?,
        };
        while filled < buffer.len() {
            self.ready.readable().await.map_err(ChannelError::Socket)?;
            match self.ready.try_read(&mut buffer[filled..]) {
                Ok(0) => return Err(ChannelError::Closed),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(ChannelError::Socket(error)),
            }
        }
        Ok(())
    }

    /// Waits for the next message. Dropping the future loses no data.
    pub(crate) async fn receive<M: DeserializeOwned>(&mut self) -> Result<(M, Vec<OwnedFd>), ChannelError> {
        let Self { ready, channel } = self;
        loop {
            if let Some(message) = channel.buffered()? {
                return Ok(message);
            }
            ready.readable().await?;
            let mut filled = Ok(true);
            let read = || {
                filled = channel.fill();
                if matches!(filled, Ok(false)) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            };
            match ready.try_io(Interest::READABLE, read) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
                _ => filled.map(drop)?,
            }
        }
    }
}
