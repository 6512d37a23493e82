//! Multiplexes streams and messages on one transport.
//!
//! The bytes of a stream are sent only within the credit that its reader has granted. Unread bytes are therefore bounded by
//! the [`window`] of each stream, and a side that sends more is disconnected. Messages are sent first; streams then take turns.
//! Queued data survives a change of transport: after [`Mux::hold`] nothing is in flight, and another transport may be
//! [run](Mux::run).

use super::{
    flow::{BATCH, Incoming, MuxState, Outgoing, window},
    frame::{self, CHUNK, Frame, MAX_TO_GUEST, StreamId},
    stream::{RecvStream, SendStream, Stop},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::Notify,
};

/// The maximum number of bytes of queued messages: two of the largest messages.
const MESSAGES: usize = 2 * MAX_TO_GUEST;

/// The maximum number of open streams in each direction. A stream that its reader has closed counts until the other side ends it.
const STREAMS: usize = 4096;

/// The prefix of the reason if a connection ended without a protocol violation by the other side.
pub(super) const CONNECTION_ENDED: &str = "the connection ended";

/// One side of a connection.
pub(super) struct Mux {
    state: Mutex<MuxState>,
    /// Notified when something is queued.
    work: Notify,
    /// Notified when the connection is lost.
    over: Notify,
    /// The maximum size of a frame that is sent, and of a frame that is accepted, in bytes.
    limits: (usize, usize),
}

/// The decision of a message handler to continue or to stop reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadNext {
    /// Read on.
    More,
    /// Stop reading.
    Stop,
}

impl Mux {
    /// Creates a side that sends frames of at most `to` bytes, and accepts frames of at most `from` bytes.
    pub(super) fn new(to: usize, from: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), work: Notify::new(), over: Notify::new(), limits: (to, from) })
    }

    fn lock(&self) -> MutexGuard<'_, MuxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a message. Never blocks. On a lost connection the message is discarded.
    pub(super) fn send<M: Serialize>(&self, message: &M) -> Result<(), frame::FrameError> {
        let mut bytes = Vec::new();
        frame::encode(&Frame::Message(message), self.limits.0, &mut bytes)?;
        let mut state = self.lock();
        if state.lost.is_some() {
            return Ok(());
        }
        let length = state.message_bytes + bytes.len();
        if length > MESSAGES {
            return Err(frame::FrameError::QueueFull);
        }
        state.message_bytes = length;
        state.messages.push_back(bytes);
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Opens a receiving stream. The other side opens its end when it handles a message that must be sent after this call.
    pub(super) fn recv_stream(self: &Arc<Self>, id: StreamId) -> Result<RecvStream, frame::FrameError> {
        let incoming = Incoming { allowed: window(id.kind), ..Incoming::default() };
        let ready = incoming.ready.clone();
        let mut state = self.lock();
        check_room(state.recv_streams.len())?;
        state.recv_streams.insert(id, incoming);
        drop(state);
        Ok(RecvStream::new(self.clone(), id, ready))
    }

    /// Opens a sending stream.
    pub(super) fn send_stream(self: &Arc<Self>, id: StreamId) -> Result<SendStream, frame::FrameError> {
        let outgoing = Outgoing { credit: window(id.kind), ..Outgoing::default() };
        let ready = outgoing.ready.clone();
        let mut state = self.lock();
        check_room(state.send_streams.len())?;
        state.send_streams.insert(id, outgoing);
        drop(state);
        Ok(SendStream::new(self.clone(), id, ready))
    }

    /// Sends `last` after all queued messages, and then nothing until a new transport is run. With `stop`, [`Mux::run`] then
    /// returns.
    pub(super) fn hold<M: Serialize>(&self, last: &M, stop: bool) -> Result<(), frame::FrameError> {
        let mut bytes = Vec::new();
        frame::encode(&Frame::Message(last), self.limits.0, &mut bytes)?;
        self.lock().last = Some((bytes, stop));
        self.work.notify_one();
        Ok(())
    }

    /// Marks the connection as lost, and ends all its streams. Only the first reason is kept.
    pub(super) fn lose(&self, why: &str) {
        let mut state = self.lock();
        state.lost.get_or_insert_with(|| why.to_owned());
        state.messages.clear();
        state.message_bytes = 0;
        state.recv_streams.values().for_each(|recv_stream| recv_stream.ready.notify_one());
        state.send_streams.values().for_each(|send_stream| send_stream.ready.notify_one());
        drop(state);
        self.over.notify_one();
    }

    /// Returns the reason for the loss, if the connection is lost.
    pub(super) fn lost(&self) -> Option<String> {
        self.lock().lost.clone()
    }

    /// Serves a transport until `handle` returns [`ReadNext::Stop`], or the last frame of [`Mux::hold`] with `stop` is sent.
    /// Otherwise returns why the connection ended.
    pub(super) async fn run<M: DeserializeOwned>(
        &self,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
        handle: impl FnMut(M) -> Result<ReadNext, String>,
    ) -> Result<(), String> {
        self.lock().silent = false;
        tokio::select! {
            end = self.read(reader, handle) => end,
            end = self.write(writer) => end.map_err(|e| ended(&e)),
            why = self.over() => Err(why),
        }
    }

    /// Waits until the connection is lost.
    async fn over(&self) -> String {
        loop {
            if let Some(why) = self.lost() {
                return why;
            }
            self.over.notified().await;
        }
    }

    async fn read<M: DeserializeOwned>(
        &self,
        reader: &mut (impl AsyncRead + Unpin),
        mut handle: impl FnMut(M) -> Result<ReadNext, String>,
    ) -> Result<(), String> {
        let mut bytes = Vec::new();
        let mut piece = vec![0; BATCH];
        loop {
            let mut done = 0;
            while let Some((frame, length)) = frame::decode::<M>(&bytes[done..], self.limits.1).map_err(|e| e.to_string())? {
                done += length;
                let next = match frame {
                    Frame::Message(message) => handle(message)?,
                    other => self.lock().take(other).map(|()| ReadNext::More)?,
                };
                if next == ReadNext::Stop {
                    return Ok(());
                }
            }
            bytes.drain(..done);
            match reader.read(&mut piece).await {
                Ok(0) => return Err(CONNECTION_ENDED.to_owned()),
                Ok(read) => bytes.extend_from_slice(&piece[..read]),
                Err(error) => return Err(ended(&error)),
            }
        }
    }

    async fn write(&self, writer: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
        let mut batch = Vec::with_capacity(2 * BATCH);
        loop {
            batch.clear();
            let last = self.lock().fill(&mut batch);
            if !batch.is_empty() {
                writer.write_all(&batch).await?;
                writer.flush().await?;
            }
            match last {
                Some(true) => return Ok(()),
                Some(false) => return pending().await,
                None if batch.is_empty() => self.work.notified().await,
                None => batch.shrink_to(2 * BATCH),
            }
        }
    }
}

/// Operations of the two ends of a stream.
impl Mux {
    /// Takes the received bytes of a stream. Returns `None` at its end, and an empty vector if no bytes have arrived yet.
    pub(super) fn take(&self, id: StreamId) -> Option<Vec<u8>> {
        let mut state = self.lock();
        let lost = state.lost.is_some();
        let incoming = state.recv_streams.get_mut(&id)?;
        let bytes = std::mem::take(&mut incoming.waiting);
        if bytes.is_empty() && (incoming.ended || lost) {
            return None;
        }
        // Buffered bytes were within the credit, so there are at most as many as the window.
        incoming.read += u32::try_from(bytes.len()).unwrap_or(window(id.kind));
        if incoming.read >= window(id.kind) / 2 && !incoming.ended {
            state.reply(id);
            drop(state);
            self.work.notify_one();
        }
        Some(bytes)
    }

    /// Returns true if the other side may send bytes of a stream or its end, and nothing of the stream is buffered.
    pub(super) fn is_awaited(&self, id: StreamId) -> bool {
        let waits = |incoming: &Incoming| incoming.waiting.is_empty() && !incoming.ended && !incoming.closed;
        self.lock().recv_streams.get(&id).is_some_and(waits)
    }

    /// Returns how many bytes of an open stream have arrived.
    pub(super) fn received(&self, id: StreamId) -> u64 {
        self.lock().recv_streams.get(&id).map_or(0, |incoming| incoming.total)
    }

    /// Returns how many received bytes of a stream are buffered.
    pub(super) fn arrived(&self, id: StreamId) -> usize {
        self.lock().recv_streams.get(&id).map_or(0, |incoming| incoming.waiting.len())
    }

    /// Returns true if a stream has ended, and its writer had not failed.
    pub(super) fn is_complete(&self, id: StreamId) -> bool {
        self.lock().recv_streams.get(&id).is_some_and(|incoming| incoming.ended && !incoming.aborted)
    }

    /// Returns true if a stream whose reader may have closed it has not ended yet.
    pub(super) fn is_unended(&self, id: StreamId) -> bool {
        let state = self.lock();
        state.lost.is_none() && state.recv_streams.get(&id).is_some_and(|incoming| !incoming.ended)
    }

    /// Closes a stream on behalf of its reader.
    pub(super) fn close_recv(&self, id: StreamId) {
        let mut state = self.lock();
        let lost = state.lost.is_some();
        let Some(incoming) = state.recv_streams.get_mut(&id) else { return };
        if incoming.ended || lost {
            state.recv_streams.remove(&id);
            return;
        }
        incoming.closed = true;
        incoming.waiting = Vec::new();
        state.reply(id);
        drop(state);
        self.work.notify_one();
    }

    /// Queues as many bytes for a stream as it accepts now, and returns their number.
    pub(super) fn try_send(&self, id: StreamId, bytes: &[u8]) -> Result<usize, Stop> {
        let mut state = self.lock();
        if state.lost.is_some() {
            return Err(Stop::Lost);
        }
        let outgoing = state.send_streams.get_mut(&id).filter(|outgoing| !outgoing.closed).ok_or(Stop::Closed)?;
        if !outgoing.waiting.is_empty() {
            return Ok(0);
        }
        let length = bytes.len().min(CHUNK).min(usize::try_from(outgoing.credit).unwrap_or(CHUNK));
        outgoing.waiting.extend_from_slice(&bytes[..length]);
        // The length is at most the credit, so the fallback is never used.
        outgoing.credit -= u32::try_from(length).unwrap_or(outgoing.credit);
        if length > 0 {
            state.turn(id);
            drop(state);
            self.work.notify_one();
        }
        Ok(length)
    }

    /// Marks a stream as incomplete on behalf of its writer. [`Mux::finish`] must follow.
    pub(super) fn abort(&self, id: StreamId) {
        if let Some(outgoing) = self.lock().send_streams.get_mut(&id) {
            outgoing.aborted = true;
        }
    }

    /// Ends a stream on behalf of its writer.
    pub(super) fn finish(&self, id: StreamId) {
        let mut state = self.lock();
        if state.lost.is_some() {
            state.send_streams.remove(&id);
        } else if let Some(outgoing) = state.send_streams.get_mut(&id) {
            outgoing.ended = true;
            state.turn(id);
            drop(state);
            self.work.notify_one();
        }
    }

    /// Returns the reason why nothing more can be written to a stream, if there is one.
    pub(super) fn stopped(&self, id: StreamId) -> Option<Stop> {
        let state = self.lock();
        match state.send_streams.get(&id) {
            _ if state.lost.is_some() => Some(Stop::Lost),
            Some(outgoing) if !outgoing.closed => None,
            _ => Some(Stop::Closed),
        }
    }

    /// Returns true if all of a stream and its end have been sent, or never will be.
    pub(super) fn is_finished(&self, id: StreamId) -> bool {
        let state = self.lock();
        state.lost.is_some() || !state.send_streams.contains_key(&id)
    }
}

fn ended(error: &std::io::Error) -> String {
    format!("{CONNECTION_ENDED}: {error}")
}

fn check_room(open: usize) -> Result<(), frame::FrameError> {
    if open < STREAMS { Ok(()) } else { Err(frame::FrameError::TooMany { limit: STREAMS }) }
}

#[cfg(test)]
#[path = "mux_tests.rs"]
mod tests;
