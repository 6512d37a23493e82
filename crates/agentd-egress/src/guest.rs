//! The flows of a sandbox in a virtual machine, as they reach the gateway.
//!
//! The agent in the machine listens in the network namespace of the sandbox. It carries each connection, each DNS query and each
//! refused attempt to the host, over its channel to the host. The host's side of that channel puts these into a [`GuestPort`].
//! The gateway takes them from there, as it takes them from the sockets of a namespace of this host, and treats them in the same
//! way.
//!
//! The agent's statement about a destination is untrusted, because the guest may be hostile. It decides nothing: the grants are
//! looked up, and names are resolved, outside of the machine.

use crate::dns::MAX_QUERY;
use std::{
    collections::VecDeque,
    fmt,
    net::{IpAddr, SocketAddr},
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, oneshot, watch};

/// The maximum number of DNS queries of a guest that wait for the gateway. The agent sends no more at once.
pub const MAX_QUERIES: usize = 64;
/// The maximum number of attempts that wait for the gateway. Further attempts are not recorded.
const MAX_ATTEMPTS: usize = 256;

/// A connection that the agent of a guest has accepted.
#[derive(Debug)]
pub struct GuestConnection {
    /// The destination that the program chose, as the guest states it.
    pub wanted: SocketAddr,
    /// One end of a socket pair. The other end carries the bytes from and to the guest.
    pub socket: UnixStream,
    /// Receives the reason if the connection breaks in the guest.
    pub broken: oneshot::Receiver<String>,
    /// Set to true if both directions ended as they should. Closed when the gateway no longer uses the connection.
    pub complete: watch::Sender<bool>,
}

/// A datagram for port 53 that the agent of a guest has received.
pub struct GuestQuery {
    /// The address that the program asked.
    pub to: IpAddr,
    /// The message.
    pub bytes: Vec<u8>,
    /// Sends the answer. Without bytes, the message gets no answer.
    pub reply: Box<dyn FnOnce(Vec<u8>) + Send>,
}

impl fmt::Debug for GuestQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestQuery").field("to", &self.to).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// An attempt that the guest's kernel has refused: a TCP connection to a port without a listener, or a UDP datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestAttempt {
    /// True for UDP.
    pub udp: bool,
    /// The destination, as the guest states it.
    pub to: SocketAddr,
}

/// The place where the flows of one virtual machine wait for their gateway. All queues are bounded. A machine that replaces
/// another one, because an earlier state was restored, uses the same port.
#[derive(Debug)]
pub struct GuestPort {
    pub(crate) connections: Backlog<GuestConnection>,
    pub(crate) queries: Backlog<GuestQuery>,
    pub(crate) attempts: Backlog<GuestAttempt>,
}

impl GuestPort {
    /// Creates a port for up to `flows` concurrent connections.
    pub fn new(flows: usize) -> Arc<Self> {
        Arc::new(Self {
            connections: Backlog::new(flows),
            queries: Backlog::new(MAX_QUERIES),
            attempts: Backlog::new(MAX_ATTEMPTS),
        })
    }

    /// Returns the maximum number of concurrent connections.
    pub fn flows(&self) -> usize {
        self.connections.max
    }

    /// Passes a connection to the gateway. A connection that does not fit, or that comes after the end of the gateway, is
    /// dropped; the result is then false.
    pub fn connect(&self, connection: GuestConnection) -> bool {
        self.connections.push(connection)
    }

    /// Passes a query to the gateway. A query that is too long or does not fit is dropped, as a network may do.
    pub fn query(&self, query: GuestQuery) -> bool {
        query.bytes.len() <= MAX_QUERY && self.queries.push(query)
    }

    /// Passes an attempt to the gateway, for the record. An attempt that does not fit is dropped.
    pub fn attempt(&self, attempt: GuestAttempt) -> bool {
        self.attempts.push(attempt)
    }
}

/// Closes a port when dropped, so that what waits there is refused.
pub(crate) struct ClosePort(pub(crate) Option<Arc<GuestPort>>);

impl Drop for ClosePort {
    fn drop(&mut self) {
        if let Some(port) = &self.0 {
            port.connections.close();
            port.queries.close();
            port.attempts.close();
        }
    }
}

/// A bounded queue between the channel to a guest and the gateway's thread, like the backlog of a listening socket.
#[derive(Debug)]
pub(crate) struct Backlog<T> {
    waiting: Mutex<QueuedItems<T>>,
    added: Notify,
    max: usize,
}

#[derive(Debug)]
struct QueuedItems<T> {
    items: VecDeque<T>,
    closed: bool,
}

impl<T> Backlog<T> {
    fn new(max: usize) -> Self {
        Self { waiting: Mutex::new(QueuedItems { items: VecDeque::new(), closed: false }), added: Notify::new(), max }
    }

    fn lock(&self) -> MutexGuard<'_, QueuedItems<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, item: T) -> bool {
        let mut waiting = self.lock();
        let fits = !waiting.closed && waiting.items.len() < self.max;
        if fits {
            waiting.items.push_back(item);
            drop(waiting);
            self.added.notify_one();
        }
        fits
    }

    /// Returns the next item without waiting.
    pub(crate) fn pop(&self) -> Option<T> {
        self.lock().items.pop_front()
    }

    /// Waits for the next item. The queue has one reader that waits.
    pub(crate) async fn next(&self) -> T {
        loop {
            if let Some(item) = self.pop() {
                return item;
            }
            self.added.notified().await;
        }
    }

    fn close(&self) {
        let left = {
            let mut waiting = self.lock();
            waiting.closed = true;
            std::mem::take(&mut waiting.items)
        };
        // Dropped without the lock, because the end of an item wakes the task of its flow.
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_of_a_guest_is_bounded_and_a_closed_port_takes_nothing() {
        let port = GuestPort::new(2);
        let to = SocketAddr::from(([93, 184, 216, 34], 443));
        let connect = || {
            let (socket, other) = UnixStream::pair().unwrap();
            let ((_, broken), (complete, gone)) = (oneshot::channel(), watch::channel(false));
            (port.connect(GuestConnection { wanted: to, socket, broken, complete }), other, gone)
        };
        let ask = |length| {
            let query = GuestQuery { to: to.ip(), bytes: vec![0; length], reply: Box::new(drop) };
            port.query(query)
        };
        let connected: Vec<_> = (0..4).map(|_| connect()).collect();
        assert_eq!(connected.iter().map(|(fits, ..)| *fits).collect::<Vec<_>>(), [true, true, false, false]);
        assert_eq!((0..MAX_QUERIES * 2).filter(|_| ask(20)).count(), MAX_QUERIES);
        assert_eq!((0..2000).filter(|_| port.attempt(GuestAttempt { udp: true, to })).count(), MAX_ATTEMPTS);
        port.queries.pop().unwrap();
        assert!(!ask(MAX_QUERY + 1) && ask(MAX_QUERY));
        drop(ClosePort(Some(port.clone())));
        assert!(port.connections.pop().is_none() && port.queries.pop().is_none() && port.attempts.pop().is_none());
        assert!(!connect().0 && !ask(20));
        // The other ends learn that the gateway has dropped the connections.
        assert!(connected.iter().all(|(.., gone)| gone.has_changed().is_err()));
    }
}
