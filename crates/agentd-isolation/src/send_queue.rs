//! The queue of requests to a supervisor. Senders never block: requests that the socket does not accept now are queued in order
//! and sent later by the task that serves the channel. The queue is bounded, so a supervisor that does not read cannot block the
//! daemon or exhaust its memory.

use agentd_supervisor::{
    channel::{ChannelError, send_some},
    protocol::{self, Request},
};
use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

/// The maximum size of the queue in bytes: two of the largest requests.
const MAX_QUEUE_BYTES: usize = 2 * protocol::MAX_REQUEST;

/// The reason why a request was neither sent nor queued.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PushError {
    #[error("the queue of requests to the supervisor is full")]
    Full,
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

/// Queued frames, and the non-blocking socket that they are sent over.
pub(crate) struct SendQueue {
    socket: Arc<OwnedFd>,
    waiting: VecDeque<Frame>,
    bytes: usize,
}

struct Frame {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

impl SendQueue {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket: Arc::new(socket), waiting: VecDeque::new(), bytes: 0 }
    }

    /// Returns the socket, to wait until it has space.
    pub(crate) fn socket(&self) -> Arc<OwnedFd> {
        self.socket.clone()
    }

    /// Sends a request, or as much of it as the socket takes, and queues the rest. Returns true if anything is queued.
    pub(crate) fn push(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<bool, PushError> {
        let bytes = protocol::encode(request, fds.len()).map_err(ChannelError::Encode)?;
        let mut sent = 0;
        if self.waiting.is_empty() {
            sent = send_now(&self.socket, &bytes, fds)?;
            if sent == bytes.len() {
                return Ok(false);
            }
        }
        if self.bytes + bytes.len() > MAX_QUEUE_BYTES {
            return Err(PushError::Full);
        }
        // Descriptors are sent with the first byte of a frame.
        let rest = if sent > 0 { &[][..] } else { fds };
        let fds = rest.iter().map(|fd| fd.try_clone_to_owned()).collect::<Result<_, _>>();
        let fds = fds.map_err(ChannelError::from)?;
        self.bytes += bytes.len();
        self.waiting.push_back(Frame { bytes, sent, fds });
        Ok(true)
    }

    /// Sends as much of the queue as the socket takes. Returns true if anything is still queued.
    pub(crate) fn flush(&mut self) -> Result<bool, ChannelError> {
        while let Some(frame) = self.waiting.front_mut() {
            let fds: Vec<BorrowedFd<'_>> = frame.fds.iter().map(AsFd::as_fd).collect();
            let sent = send_now(&self.socket, &frame.bytes[frame.sent..], &fds)?;
            if sent > 0 {
                frame.fds.clear();
            }
            frame.sent += sent;
            if frame.sent < frame.bytes.len() {
                return Ok(true);
            }
            self.bytes -= frame.bytes.len();
            self.waiting.pop_front();
        }
        Ok(false)
    }
}

/// Sends as much as the socket takes without blocking, and returns the number of bytes sent.
fn send_now(socket: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize, ChannelError> {
    let mut sent = 0;
    while sent < bytes.len() {
        match send_some(socket.as_fd(), &bytes[sent..], if sent == 0 { fds } else { &[] })? {
            Some(count) => sent += count,
            None => break,
        }
    }
    Ok(sent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_supervisor::channel::Channel;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn open(id: u32, length: usize) -> Request {
        Request::Open { id, path: vec![b'x'; length], write: false }
    }

    #[test]
    fn requests_over_full_socket_are_queued_in_order_without_blocking() {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
        let mut send_queue = SendQueue::new(ours);
        let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let count = 40;
        for id in 0..count {
            send_queue.push(&open(id, 100_000), &[null.as_fd()]).unwrap();
        }
        let mut peer = Channel::new(theirs, protocol::MAX_REQUEST);
        let mut next = 0;
        while next < count {
            send_queue.flush().unwrap();
            peer.fill().unwrap();
            while let Some((request, fds)) = peer.buffered::<Request>().unwrap() {
                assert_eq!((request, fds.len()), (open(next, 100_000), 1));
                next += 1;
            }
        }
        assert!(!send_queue.flush().unwrap());
    }

    #[test]
    fn unread_requests_over_limit_are_refused() {
        let (ours, _theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
        let mut send_queue = SendQueue::new(ours);
        let refused = (0..20).find_map(|id| send_queue.push(&open(id, 1 << 20), &[]).err());
        assert!(matches!(refused, Some(PushError::Full)));
    }
}
