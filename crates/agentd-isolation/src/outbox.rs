//! Requests on their way to a supervisor. Whoever sends one never waits: what the socket does not take now is kept, in order, and
//! sent by the task that reads from it, when it does. A supervisor that reads nothing loses its sandbox, not the daemon's time.

use agentd_supervisor::{
    channel::{ChannelError, send_some},
    protocol::{self, FrameError, Request},
};
use rustix::io::Errno;
use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

/// Bytes that may wait. Two of the largest requests.
const LIMIT: usize = 2 * protocol::MAX_REQUEST;

/// Frames that wait, and the socket they wait for, which must be non-blocking.
pub(crate) struct Outbox {
    socket: Arc<OwnedFd>,
    waiting: VecDeque<Frame>,
    bytes: usize,
}

struct Frame {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

impl Outbox {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket: Arc::new(socket), waiting: VecDeque::new(), bytes: 0 }
    }

    /// The socket, to wait for.
    pub(crate) fn socket(&self) -> Arc<OwnedFd> {
        self.socket.clone()
    }

    /// Sends a request, or what of it can be sent now. `true` when something waits.
    pub(crate) fn push(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<bool, ChannelError> {
        let bytes = protocol::encode(request, fds.len())?;
        let mut sent = 0;
        if self.waiting.is_empty() {
            sent = send_now(&self.socket, &bytes, fds)?;
            if sent == bytes.len() {
                return Ok(false);
            }
        }
        if self.bytes + bytes.len() > LIMIT {
            return Err(FrameError::TooLong { length: self.bytes + bytes.len(), limit: LIMIT }.into());
        }
        // Descriptors travel with the first byte.
        let rest = if sent > 0 { &[][..] } else { fds };
        let fds = rest.iter().map(|fd| fd.try_clone_to_owned()).collect::<Result<_, _>>();
        let fds = fds.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::MFILE))?;
        self.bytes += bytes.len();
        self.waiting.push_back(Frame { bytes, sent, fds });
        Ok(true)
    }

    /// Sends what waits, as far as the socket takes it. `true` when something still waits.
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

/// Sends as much as the socket takes without waiting; says how much.
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
    fn a_full_socket_keeps_requests_in_order_and_holds_nobody_up() {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
        let mut outbox = Outbox::new(ours);
        let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let count = 40;
        for id in 0..count {
            outbox.push(&open(id, 100_000), &[null.as_fd()]).unwrap();
        }
        let mut peer = Channel::new(theirs, protocol::MAX_REQUEST);
        let mut next = 0;
        while next < count {
            outbox.flush().unwrap();
            peer.fill().unwrap();
            while let Some((request, fds)) = peer.buffered::<Request>().unwrap() {
                assert_eq!((request, fds.len()), (open(next, 100_000), 1));
                next += 1;
            }
        }
        assert!(!outbox.flush().unwrap());
    }

    #[test]
    fn what_nobody_reads_is_bounded() {
        let (ours, _theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
        let mut outbox = Outbox::new(ours);
        let refused = (0..20).find_map(|id| outbox.push(&open(id, 1 << 20), &[]).err());
        assert!(matches!(refused, Some(ChannelError::Frame(FrameError::TooLong { .. }))));
    }
}
