//! The flows of datagrams of one sandbox, and the bounds on them.

use crate::{limits::WAITING_DATAGRAMS, pktinfo};
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    net::UdpSocket,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
};

/// The maximum size of a datagram, in bytes: the length in the header of UDP has 16 bits (RFC 768).
const MAX_DATAGRAM: usize = 65_535;
/// The memory of a waiting datagram in addition to its bytes.
const OVERHEAD: usize = 256;
/// The maximum number of datagrams of one flow that wait to be sent.
const QUEUE: usize = 64;

/// The two ends of a flow inside of the sandbox. `client` is the address of the program's socket, which the program can choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct DatagramKey {
    pub(crate) client: SocketAddr,
    pub(crate) wanted: SocketAddr,
}

/// A datagram that arrived from the sandbox.
pub(crate) struct Received {
    pub(crate) bytes: Vec<u8>,
    pub(crate) from: SocketAddr,
    pub(crate) to: IpAddr,
}

/// A datagram that waits to be sent. It holds its share of the memory.
#[derive(Debug)]
pub(crate) struct WaitingDatagram {
    pub(crate) bytes: Vec<u8>,
    _memory: OwnedSemaphorePermit,
}

/// A new flow.
pub(crate) struct OpenedFlow {
    /// Distinguishes the flow from earlier flows with the same ends.
    pub(crate) id: u64,
    /// Receives the datagrams of the program. The channel closes if the flow must end.
    pub(crate) queue: mpsc::Receiver<WaitingDatagram>,
    /// Closes if the flow must end, even while nothing is received from the queue.
    pub(crate) displaced: oneshot::Receiver<()>,
}

#[derive(Debug)]
struct OpenFlow {
    id: u64,
    /// The time of the last datagram, in datagrams of the sandbox.
    used: u64,
    queue: mpsc::Sender<WaitingDatagram>,
    /// Dropped when the flow must end.
    _open: oneshot::Sender<()>,
}

#[derive(Debug, Default)]
struct Table {
    flows: HashMap<DatagramKey, OpenFlow>,
    /// Counts the flows and datagrams.
    clock: u64,
}

/// The state that the sockets and flows of one sandbox share.
#[derive(Debug)]
pub(crate) struct DatagramPath {
    table: Mutex<Table>,
    /// One permit for each flow, which holds it until it is recorded.
    pub(crate) flows: Arc<Semaphore>,
    /// One permit for each byte that waits.
    pub(crate) memory: Arc<Semaphore>,
    /// The buffer into which a datagram is received. All tasks of a gateway run in one thread.
    buffer: Mutex<Box<[u8]>>,
}

impl DatagramPath {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            table: Mutex::default(),
            flows: Arc::new(Semaphore::new(max.clamp(1, Semaphore::MAX_PERMITS))),
            memory: Arc::new(Semaphore::new(WAITING_DATAGRAMS as usize)),
            buffer: Mutex::new(vec![0; MAX_DATAGRAM].into()),
        }
    }

    /// Receives a datagram from the sandbox without waiting.
    pub(crate) fn receive(&self, socket: &UdpSocket) -> io::Result<Received> {
        let mut buffer = self.buffer();
        let datagram = pktinfo::receive(socket, &mut buffer)?;
        let bytes = buffer.get(..datagram.length).unwrap_or_default().to_vec();
        Ok(Received { bytes, from: datagram.from, to: datagram.to })
    }

    /// Returns the buffer for one datagram. The caller must not wait while it holds the buffer.
    pub(crate) fn buffer(&self) -> MutexGuard<'_, Box<[u8]>> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves the memory of a datagram. Returns `None` if too many bytes wait.
    pub(crate) fn waiting(&self, bytes: Vec<u8>) -> Option<WaitingDatagram> {
        let size = u32::try_from(bytes.len() + OVERHEAD).ok()?;
        let memory = self.memory.clone().try_acquire_many_owned(size).ok()?;
        Some(WaitingDatagram { bytes, _memory: memory })
    }

    /// Passes a datagram to its flow, and drops the datagram if too many datagrams of the flow wait.
    ///
    /// # Errors
    /// The datagram, if it belongs to no open flow.
    pub(crate) fn deliver(&self, key: &DatagramKey, datagram: WaitingDatagram) -> Result<(), WaitingDatagram> {
        let mut table = self.table();
        table.clock += 1;
        let now = table.clock;
        let Some(flow) = table.flows.get_mut(key) else { return Err(datagram) };
        flow.used = now;
        match flow.queue.try_send(datagram) {
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(datagram)) => {
                table.flows.remove(key);
                Err(datagram)
            }
        }
    }

    /// Waits for the permit of a new flow. If there are too many flows, ends the one that was used least recently.
    pub(crate) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = self.flows.clone().try_acquire_owned() {
            return Some(permit);
        }
        {
            let mut table = self.table();
            let oldest = table.flows.iter().min_by_key(|(_, flow)| flow.used).map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                table.flows.remove(&oldest);
            }
        }
        self.flows.clone().acquire_owned().await.ok()
    }

    /// Opens a flow with its first datagram.
    pub(crate) fn open(&self, key: DatagramKey, first: WaitingDatagram) -> OpenedFlow {
        let ((sender, queue), (open, displaced)) = (mpsc::channel(QUEUE), oneshot::channel());
        // The channel is empty.
        let _ = sender.try_send(first);
        let mut table = self.table();
        table.clock += 1;
        let id = table.clock;
        table.flows.insert(key, OpenFlow { id, used: id, queue: sender, _open: open });
        OpenedFlow { id, queue, displaced }
    }

    /// Notes that the flow received an answer.
    pub(crate) fn answered(&self, key: &DatagramKey, id: u64) {
        let mut table = self.table();
        table.clock += 1;
        let now = table.clock;
        if let Some(flow) = table.flows.get_mut(key).filter(|flow| flow.id == id) {
            flow.used = now;
        }
    }

    /// Forgets a flow that has ended. A later datagram with the same ends starts another flow.
    pub(crate) fn close(&self, key: &DatagramKey, id: u64) {
        let mut table = self.table();
        if table.flows.get(key).is_some_and(|flow| flow.id == id) {
            table.flows.remove(key);
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> DatagramKey {
        DatagramKey { client: ([198, 18, 0, 2], port).into(), wanted: ([198, 18, 1, 0], 123).into() }
    }

    fn datagram(path: &DatagramPath, bytes: &[u8]) -> WaitingDatagram {
        path.waiting(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn flow_that_was_used_least_recently_ends_when_there_are_too_many() {
        let path = DatagramPath::new(2);
        let (one, two) = (path.permit().await.unwrap(), path.permit().await.unwrap());
        let mut first = path.open(key(1), datagram(&path, b"a"));
        let mut second = path.open(key(2), datagram(&path, b"b"));
        path.deliver(&key(1), datagram(&path, b"c")).unwrap();
        path.answered(&key(2), first.id);
        let ended = async {
            assert_eq!(second.queue.recv().await.unwrap().bytes, b"b");
            assert!(second.queue.recv().await.is_none() && second.displaced.await.is_err(), "the second flow must end");
            drop(two);
        };
        let (third, ()) = tokio::join!(path.permit(), ended);
        assert_eq!(first.queue.recv().await.unwrap().bytes, b"a");
        assert_eq!(first.queue.recv().await.unwrap().bytes, b"c");
        assert!(path.deliver(&key(2), datagram(&path, b"d")).is_err(), "the flow is forgotten");
        drop((one, third));
    }

    #[test]
    fn datagrams_above_the_bounds_are_dropped_and_their_memory_is_returned() {
        let path = DatagramPath::new(8);
        let opened = path.open(key(1), datagram(&path, b""));
        for _ in 0..4 * QUEUE {
            path.deliver(&key(1), datagram(&path, b"")).unwrap();
        }
        assert_eq!(opened.queue.len(), QUEUE);
        assert_eq!(path.memory.available_permits(), WAITING_DATAGRAMS as usize - QUEUE * OVERHEAD);
        let large: Vec<_> = std::iter::from_fn(|| path.waiting(vec![0; MAX_DATAGRAM])).collect();
        assert!(large.len() < WAITING_DATAGRAMS as usize / MAX_DATAGRAM);
        drop((large, opened));
        assert_eq!(path.memory.available_permits(), WAITING_DATAGRAMS as usize);
    }

    #[test]
    fn flow_that_has_ended_does_not_close_its_successor() {
        let path = DatagramPath::new(8);
        let first = path.open(key(1), datagram(&path, b""));
        let id = first.id;
        drop(first);
        assert!(path.deliver(&key(1), datagram(&path, b"x")).is_err(), "nobody receives");
        let second = path.open(key(1), datagram(&path, b"y"));
        path.close(&key(1), id);
        assert!(path.deliver(&key(1), datagram(&path, b"z")).is_ok());
        path.close(&key(1), second.id);
        assert!(path.deliver(&key(1), datagram(&path, b"z")).is_err());
    }
}
