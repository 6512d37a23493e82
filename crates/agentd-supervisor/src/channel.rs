//! Sends and receives frames with file descriptors over a Unix stream socket (`unix(7)`). Calls block if the socket is blocking.

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
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Space for the descriptors that one `recvmsg` can return. The kernel passes at most 253 (`SCM_MAX_FD`).
const SPACE: usize = rustix::cmsg_space!(ScmRights(253));

/// Reasons why a message was not sent or received. After any but [`ChannelError::Encode`], the channel can no longer be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The peer closed the connection.
    #[error("the peer closed the connection")]
    Closed,
    /// The message to send cannot be encoded as a frame. Nothing of it was sent.
    #[error("cannot encode the message: {0}")]
    Encode(#[source] FrameError),
    /// A frame from the peer was invalid.
    #[error("received an invalid message: {0}")]
    Frame(#[from] FrameError),
    /// A message arrived with fewer descriptors than its head announced.
    #[error("a message arrived without its file descriptors")]
    MissingFds,
    /// The socket failed.
    #[error("socket: {0}")]
    Socket(#[from] io::Error),
}

impl From<Errno> for ChannelError {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
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
    /// Creates a channel over a connected stream socket. An incoming frame may have at most `limit` bytes.
    pub fn new(socket: OwnedFd, limit: usize) -> Self {
        Self { socket, limit, bytes: Vec::new(), fds: VecDeque::new() }
    }

    /// Sends one message together with `fds`. On a non-blocking socket, waits until the socket has accepted the whole frame.
    ///
    /// # Errors
    /// [`ChannelError::Closed`] if the peer is gone, and the errors of encoding and of `sendmsg(2)`.
    pub fn send<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        send(self.socket.as_fd(), message, fds)
    }

    /// Returns the next message that was already received, without reading from the socket.
    ///
    /// # Errors
    /// [`ChannelError::Frame`] for an invalid frame, [`ChannelError::MissingFds`] if descriptors are missing.
    pub fn buffered<M: DeserializeOwned>(&mut self) -> Result<Option<(M, Vec<OwnedFd>)>, ChannelError> {
        let Some((message, count, used)) = protocol::decode(&self.bytes, self.limit)? else { return Ok(None) };
        if self.fds.len() < count {
            return Err(ChannelError::MissingFds);
        }
        self.bytes.drain(..used);
        Ok(Some((message, self.fds.drain(..count).collect())))
    }

    /// Reads from the socket once. Returns `Ok(false)` if the read would block.
    ///
    /// # Errors
    /// [`ChannelError::Closed`] if the peer is gone, and the errors of `recvmsg(2)`.
    pub fn fill(&mut self) -> Result<bool, ChannelError> {
        // Keep the buffer small: after every fork of the launcher, writing to it copies each of its pages.
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
    ///
    /// # Errors
    /// The errors of [`Channel::buffered`] and [`Channel::fill`]; `EAGAIN` on a non-blocking socket without input.
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
///
/// # Errors
/// As for [`Channel::send`].
pub fn send<M: Serialize>(socket: BorrowedFd<'_>, message: &M, fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
    let frame = protocol::encode(message, fds.len()).map_err(ChannelError::Encode)?;
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

/// Sends as many of `bytes` as the socket accepts in one call, with `fds` attached to the first byte. Returns `None` if the call
/// would block.
///
/// # Errors
/// [`ChannelError::Closed`] if the peer is gone, and the errors of `sendmsg(2)`.
pub fn send_some(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Option<usize>, ChannelError> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(ChannelError::Encode(FrameError::TooManyFds(fds.len())));
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
