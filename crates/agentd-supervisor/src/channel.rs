//! Frames with descriptors over a Unix stream socket (`unix(7)`), blocking or not as the socket is.

use crate::protocol::{self, FrameError};
use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg,
        sendmsg,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::VecDeque,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Descriptors that one `recvmsg` can take; the kernel passes at most 253 (`SCM_MAX_FD`).
const SPACE: usize = rustix::cmsg_space!(ScmRights(253));

/// Why a channel cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The other side is gone.
    #[error("closed by the other side")]
    Closed,
    /// It spoke nonsense.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A message came with fewer descriptors than it stated.
    #[error("descriptors are missing")]
    MissingFds,
    /// The socket failed.
    #[error("socket: {0}")]
    Socket(#[from] Errno),
}

/// One end of a channel.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    limit: usize,
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Channel {
    /// Over a connected stream socket; incoming frames may have at most `limit` bytes.
    pub fn new(socket: OwnedFd, limit: usize) -> Self {
        Self { socket, limit, bytes: Vec::new(), fds: VecDeque::new() }
    }

    /// Sends one message and descriptors beside it. On a non-blocking socket it waits until the socket takes all.
    pub fn send<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        send(self.socket.as_fd(), message, fds)
    }

    /// The next message that has arrived already, without reading from the socket.
    pub fn buffered<M: DeserializeOwned>(&mut self) -> Result<Option<(M, Vec<OwnedFd>)>, ChannelError> {
        let Some((message, count, used)) = protocol::decode(&self.bytes, self.limit)? else { return Ok(None) };
        if self.fds.len() < count {
            return Err(ChannelError::MissingFds);
        }
        self.bytes.drain(..used);
        Ok(Some((message, self.fds.drain(..count).collect())))
    }

    /// Reads from the socket once. `Ok(false)` when it would block.
    pub fn fill(&mut self) -> Result<bool, ChannelError> {
        // Small: each page of it is copied anew after every fork of the launcher.
        let mut chunk = [0u8; 4 << 10];
        let mut space = [MaybeUninit::uninit(); SPACE];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(&self.socket, &mut [IoSliceMut::new(&mut chunk)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::CONNRESET) => return Err(ChannelError::Closed),
                other => break other?,
            }
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        if self.fds.len() > 4 * protocol::MAX_FDS {
            return Err(FrameError::TooManyFds(self.fds.len()).into());
        }
        if received.bytes == 0 {
            return Err(ChannelError::Closed);
        }
        self.bytes.extend_from_slice(&chunk[..received.bytes]);
        Ok(true)
    }

    /// Waits for the next message, on a blocking socket.
    pub fn receive<M: DeserializeOwned>(&mut self) -> Result<(M, Vec<OwnedFd>), ChannelError> {
        loop {
            if let Some(message) = self.buffered()? {
                return Ok(message);
            }
            if !self.fill()? {
                return Err(Errno::AGAIN.into());
            }
        }
    }
}

impl std::os::fd::AsRawFd for Channel {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sends one message; see [`Channel::send`].
pub fn send<M: Serialize>(socket: BorrowedFd<'_>, message: &M, fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
    let frame = protocol::encode(message, fds.len())?;
    let mut sent = 0;
    while sent < frame.len() {
        match send_some(socket, &frame[sent..], if sent == 0 { fds } else { &[] })? {
            Some(count) => sent += count,
            None => {
                let mut ready = [rustix::event::PollFd::from_borrowed_fd(socket, rustix::event::PollFlags::OUT)];
                rustix::event::poll(&mut ready, None)?;
            }
        }
    }
    Ok(())
}

/// Sends what of `bytes` the socket takes at once, and `fds` beside the first of them; `None` when it would block.
pub fn send_some(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Option<usize>, ChannelError> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(FrameError::TooManyFds(fds.len()).into());
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(count) => return Ok(Some(count)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(ChannelError::Closed),
            Err(errno) => return Err(errno.into()),
        }
    }
}
