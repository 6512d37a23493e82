//! The host's side of the connections of a guest: passes each to the gateway, and carries its bytes.

use super::{
    super::{
        mux::Mux,
        protocol::ToGuest,
        stream::{RecvStream, SendStream, Stop},
    },
    streams,
};
use agentd_egress::guest::{GuestAttempt, GuestConnection, GuestPort, GuestQuery};
use agentd_log::LogFailure as _;
use std::{
    collections::HashSet,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{oneshot, watch},
};

/// The time in which the guest may take the last bytes of a connection that the gateway no longer uses.
const LAST_BYTES: Duration = Duration::from_secs(5);

/// The number of bytes that are read from the gateway at once.
const PART: usize = 16 << 10;

/// The connections over one channel to a guest.
pub(crate) struct Connections {
    port: Arc<GuestPort>,
    state: Mutex<ConnectionState>,
}

struct ConnectionState {
    /// The number of the next connection.
    next: u32,
    /// The connections whose streams have not ended.
    open: HashSet<u32>,
    /// The number of connections that the guest may open at this moment.
    allowed: u32,
}

impl Connections {
    /// Creates the state for a new channel, and sends the guest the number of connections that it may open.
    pub(crate) fn new(port: Arc<GuestPort>, mux: &Mux) -> Arc<Self> {
        let allowed = u32::try_from(port.flows()).unwrap_or(u32::MAX);
        let state = Mutex::new(ConnectionState { next: 0, open: HashSet::new(), allowed });
        allow(mux, allowed);
        Arc::new(Self { port, state })
    }

    fn lock(&self) -> MutexGuard<'_, ConnectionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over a connection that the guest has opened.
    ///
    /// # Errors
    /// The way in which the guest violates the protocol.
    pub(crate) fn open(self: &Arc<Self>, mux: &Arc<Mux>, connection: u32, to: SocketAddr) -> Result<(), String> {
        {
            let mut state = self.lock();
            if connection != state.next {
                return Err(format!("the guest opened connection {connection} instead of {}", state.next));
            }
            let allowed = state.allowed.checked_sub(1).ok_or("the guest opened more connections than it may")?;
            if !state.open.insert(connection) {
                return Err(format!("the guest opened connection {connection}, which is still open"));
            }
            (state.allowed, state.next) = (allowed, connection.wrapping_add(1));
        }
        let [up, down] = streams(connection);
        let up = mux.recv_stream(up).map_err(|error| error.to_string())?;
        let down = mux.send_stream(down).map_err(|error| error.to_string())?;
        let (all, mux) = (self.clone(), mux.clone());
        tokio::spawn(async move {
            all.carry(&mux, to, up, down).await;
            let mut state = all.lock();
            state.open.remove(&connection);
            state.allowed += 1;
            drop(state);
            allow(&mux, 1);
        });
        Ok(())
    }

    /// Passes a DNS query to the gateway. A query that does not fit gets no answer.
    pub(crate) fn query(&self, mux: &Arc<Mux>, query: u32, to: IpAddr, bytes: Vec<u8>) {
        let mux = mux.clone();
        let reply = move |bytes| {
            // A guest that does not read its messages gets no answers.
            mux.send(&ToGuest::Answer { query, bytes }).or_debug("answer a DNS query of a guest", query);
        };
        self.port.query(GuestQuery { to, bytes, reply: Box::new(reply) });
    }

    /// Passes an attempt that the guest's kernel has refused to the gateway, for the record.
    pub(crate) fn attempt(&self, attempt: GuestAttempt) {
        self.port.attempt(attempt);
    }

    /// Carries a connection until all its streams have ended.
    async fn carry(&self, mux: &Mux, to: SocketAddr, up: RecvStream, down: SendStream) {
        let Ok((ours, theirs)) = pair() else {
            // No descriptor is left. The program sees a reset.
            tokio::join!(up.close(), down.abort());
            return;
        };
        let ((broken, breaks), (complete, gone)) = (oneshot::channel(), watch::channel(false));
        // If the gateway has ended, it drops the connection, which ends the work below.
        self.port.connect(GuestConnection { wanted: to, socket: theirs, broken: breaks, complete });
        let (reader, writer) = ours.into_split();
        tokio::join!(send_up(mux, up, (writer, broken), gone.clone()), send_down(reader, down, gone));
    }
}

/// Allows the guest to open more connections.
fn allow(mux: &Mux, connections: u32) {
    // A guest that does not read its messages can open no more connections.
    mux.send(&ToGuest::Connections(connections)).or_debug("allow connections of a guest", connections);
}

/// Returns a pair of sockets: one of this runtime, and one of the gateway.
fn pair() -> io::Result<(UnixStream, std::os::unix::net::UnixStream)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs))
}

/// Waits until the gateway no longer uses the connection.
async fn released(mut gone: watch::Receiver<bool>) {
    while gone.changed().await.is_ok() {}
}

/// Returns the result of `work`, or `None` if it takes longer than [`LAST_BYTES`] after the gateway released the connection.
async fn while_used<T>(work: impl Future<Output = T>, gone: watch::Receiver<bool>) -> Option<T> {
    let late = async {
        released(gone).await;
        tokio::time::sleep(LAST_BYTES).await;
    };
    tokio::select! {
        done = work => Some(done),
        () = late => None,
    }
}

/// Carries the bytes of the program to the gateway.
async fn send_up(
    mux: &Mux,
    mut from: RecvStream,
    (mut to, broken): (OwnedWriteHalf, oneshot::Sender<String>),
    gone: watch::Receiver<bool>,
) {
    let copied = async {
        while let Some(bytes) = from.read().await {
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        if from.is_complete() {
            // The gateway sees the end of the direction. If it has closed its socket, it does not need to.
            let _ = to.shutdown().await;
        } else {
            let why = mux.lost().unwrap_or_else(|| "the program or its machine reset the connection".to_owned());
            // A missing receiver means that the gateway no longer uses the connection.
            let _ = broken.send(why);
        }
    };
    tokio::select! {
        () = copied => {}
        () = released(gone) => {}
    }
    from.close().await;
}

/// Carries the bytes of the gateway to the program.
async fn send_down(mut from: OwnedReadHalf, mut to: SendStream, gone: watch::Receiver<bool>) {
    let copied = async {
        let mut part = vec![0; PART];
        // If the gateway closes its socket with unread bytes, the error is ECONNRESET.
        while let Ok(length @ 1..) = from.read(&mut part).await {
            to.write(&part[..length]).await?;
        }
        Ok::<_, Stop>(())
    };
    let copied = while_used(copied, gone.clone()).await;
    // The gateway cannot write to a program that does not read.
    drop(from);
    // The gateway may also have closed this direction only, and still use the other one.
    let is_complete = matches!(copied, Some(Ok(()))) && (*gone.borrow() || gone.has_changed().is_ok());
    if is_complete { to.finish().await } else { to.abort().await }
}
