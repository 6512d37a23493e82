//! The agent's state of the connections and queries on its channel to the host.

use super::{
    super::{
        frame::FrameError,
        mux::Mux,
        protocol::FromGuest,
        stream::{RecvStream, SendStream},
    },
    streams,
};
use agentd_egress::agent::{AgentDatagrams, ReceivedQuery};
use std::{collections::HashMap, net::SocketAddr, sync::Arc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The channel to the host. Another one replaces it if the machine is adopted.
pub(super) struct Channel {
    mux: Arc<Mux>,
    /// One permit for each connection that the host allows.
    allowed: Arc<Semaphore>,
    next_connection: u32,
    next_query: u32,
    /// The queries without an answer.
    queries: HashMap<u32, WaitingQuery>,
}

/// A query that waits for its answer.
pub(super) struct WaitingQuery {
    pub(super) socket: Arc<AgentDatagrams>,
    pub(super) query: ReceivedQuery,
    /// Bounds the number of queries.
    pub(super) _turn: OwnedSemaphorePermit,
}

impl Channel {
    pub(super) fn new(mux: Arc<Mux>) -> Self {
        let allowed = Arc::new(Semaphore::new(0));
        Self { mux, allowed, next_connection: 0, next_query: 0, queries: HashMap::new() }
    }

    pub(super) fn mux(&self) -> &Arc<Mux> {
        &self.mux
    }

    /// Returns the permits for connections. The semaphore is closed if another channel has replaced this one.
    pub(super) fn allowed(&self) -> &Arc<Semaphore> {
        &self.allowed
    }

    /// Opens the streams of a connection, and announces it.
    ///
    /// # Errors
    /// Too many streams are open, or too many messages are queued.
    pub(super) fn open(&mut self, to: SocketAddr) -> Result<(SendStream, RecvStream), FrameError> {
        let [up, down] = streams(self.next_connection);
        let opened = (self.mux.send_stream(up)?, self.mux.recv_stream(down)?);
        self.mux.send(&FromGuest::Connected { connection: self.next_connection, to })?;
        self.next_connection = self.next_connection.wrapping_add(1);
        Ok(opened)
    }

    /// Sends a query.
    ///
    /// # Errors
    /// Too many messages are queued.
    pub(super) fn ask(&mut self, waiting: WaitingQuery) -> Result<(), FrameError> {
        let ReceivedQuery { to, bytes, .. } = &waiting.query;
        self.mux.send(&FromGuest::Query { query: self.next_query, to: *to, bytes: bytes.clone() })?;
        self.queries.insert(self.next_query, waiting);
        self.next_query = self.next_query.wrapping_add(1);
        Ok(())
    }

    /// Returns the query that the host has answered. `None` for a query of an earlier channel.
    pub(super) fn answered(&mut self, query: u32) -> Option<WaitingQuery> {
        self.queries.remove(&query)
    }
}
