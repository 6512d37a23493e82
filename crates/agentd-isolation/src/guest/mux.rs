//! Many streams, and messages between them, on one carrier.
//!
//! A stream's bytes are sent as far as its reader has given credit, so what waits to be read is bounded by [`WINDOW`] for each stream, and
//! the other side is lost when it sends more. Messages go first; streams then take turns. What waits to be sent outlives a carrier: after
//! [`Mux::hold`] nothing is in flight, and another one may be [run](Mux::run).

use super::{
    flow::{BATCH, Incoming, Outgoing, State, WINDOW},
    frame::{self, CHUNK, Frame, MAX_TO_GUEST, StreamId},
    stream::{Inlet, Outlet, Stop},
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

/// Bytes of messages that may wait to be sent. Two of the largest.
const MESSAGES: usize = 2 * MAX_TO_GUEST;

/// Streams that may be open in each direction: those count that the other side does not end although their reader is gone.
const STREAMS: usize = 4096;

/// One side of a connection.
pub(super) struct Mux {
    state: Mutex<State>,
    /// Something waits to be sent.
    work: Notify,
    /// It is lost.
    over: Notify,
    /// The largest frame that is sent, and that is taken.
    limits: (usize, usize),
}

/// Whether there is more to be heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// There is.
    More,
    /// That was the last.
    Stop,
}

impl Mux {
    /// One side that sends frames of at most `to` bytes, and takes those of at most `from`.
    pub(super) fn new(to: usize, from: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), work: Notify::new(), over: Notify::new(), limits: (to, from) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a message, as soon as the other side reads. It never waits. What is said to one that is lost goes nowhere.
    pub(super) fn say<M: Serialize>(&self, message: &M) -> Result<(), frame::FrameError> {
        let mut bytes = Vec::new();
        frame::encode(&Frame::Message(message), self.limits.0, &mut bytes)?;
        let mut state = self.lock();
        if state.lost.is_some() {
            return Ok(());
        }
        let length = state.message_bytes + bytes.len();
        if length > MESSAGES {
            return Err(frame::FrameError::TooLong { length, limit: MESSAGES });
        }
        state.message_bytes = length;
        state.messages.push_back(bytes);
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Opens a stream whose bytes come. The other side opens its end when it hears of it by a message, sent afterwards.
    pub(super) fn inlet(self: &Arc<Self>, id: StreamId) -> Result<Inlet, frame::FrameError> {
        let incoming = Incoming { allowed: WINDOW, ..Incoming::default() };
        let ready = incoming.ready.clone();
        let mut state = self.lock();
        check_room(state.inlets.len())?;
        state.inlets.insert(id, incoming);
        drop(state);
        Ok(Inlet::new(self.clone(), id, ready))
    }

    /// Opens a stream whose bytes go.
    pub(super) fn outlet(self: &Arc<Self>, id: StreamId) -> Result<Outlet, frame::FrameError> {
        let outgoing = Outgoing { credit: WINDOW, ..Outgoing::default() };
        let ready = outgoing.ready.clone();
        let mut state = self.lock();
        check_room(state.outlets.len())?;
        state.outlets.insert(id, outgoing);
        drop(state);
        Ok(Outlet::new(self.clone(), id, ready))
    }

    /// Says `last` after all messages that wait, and then nothing any more, until a new carrier is run. `stop`: [`Mux::run`] is done then.
    pub(super) fn hold<M: Serialize>(&self, last: &M, stop: bool) -> Result<(), frame::FrameError> {
        let mut bytes = Vec::new();
        frame::encode(&Frame::Message(last), self.limits.0, &mut bytes)?;
        self.lock().last = Some((bytes, stop));
        self.work.notify_one();
        Ok(())
    }

    /// Ends all streams and what carries them, and says why to whoever asks. The first reason stays.
    pub(super) fn lose(&self, why: &str) {
        let mut state = self.lock();
        state.lost.get_or_insert_with(|| why.to_owned());
        state.messages.clear();
        state.message_bytes = 0;
        state.inlets.values().for_each(|inlet| inlet.ready.notify_one());
        state.outlets.values().for_each(|outlet| outlet.ready.notify_one());
        drop(state);
        self.over.notify_one();
    }

    /// Why it is lost, when it is.
    pub(super) fn lost(&self) -> Option<String> {
        self.lock().lost.clone()
    }

    /// Carries everything over a carrier, until `hear` or [`Mux::hold`] says that it is done; otherwise it ends with why the other side is lost.
    pub(super) async fn run<M: DeserializeOwned>(
        &self,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
        hear: impl FnMut(M) -> Result<Next, String>,
    ) -> Result<(), String> {
        self.lock().silent = false;
        tokio::select! {
            end = self.read(reader, hear) => end,
            end = self.write(writer) => end.map_err(|e| e.to_string()),
            why = self.over() => Err(why),
        }
    }

    /// Waits until it is lost.
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
        mut hear: impl FnMut(M) -> Result<Next, String>,
    ) -> Result<(), String> {
        let mut bytes = Vec::new();
        let mut piece = vec![0; BATCH];
        loop {
            let mut done = 0;
            while let Some((frame, length)) = frame::decode::<M>(&bytes[done..], self.limits.1).map_err(|e| e.to_string())? {
                done += length;
                let next = match frame {
                    Frame::Message(message) => hear(message)?,
                    other => self.lock().take(other).map(|()| Next::More)?,
                };
                if next == Next::Stop {
                    return Ok(());
                }
            }
            bytes.drain(..done);
            match reader.read(&mut piece).await {
                Ok(0) => return Err("the connection ended".to_owned()),
                Ok(read) => bytes.extend_from_slice(&piece[..read]),
                Err(error) => return Err(error.to_string()),
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

/// What streams are to their two ends.
impl Mux {
    /// What has come of a stream; `None` at its end, `Some` of nothing when there is nothing yet.
    pub(super) fn take(&self, id: StreamId) -> Option<Vec<u8>> {
        let mut state = self.lock();
        let lost = state.lost.is_some();
        let incoming = state.inlets.get_mut(&id)?;
        let bytes = std::mem::take(&mut incoming.waiting);
        if bytes.is_empty() && (incoming.ended || lost) {
            return None;
        }
        // What waited was allowed, so it is no more than the window.
        incoming.read += u32::try_from(bytes.len()).unwrap_or(WINDOW);
        if incoming.read >= WINDOW / 2 && !incoming.ended {
            state.reply(id);
            drop(state);
            self.work.notify_one();
        }
        Some(bytes)
    }

    /// How much came of a stream that its reader waits for; `None` when he has bytes to read, has all, or is gone.
    pub(super) fn owes(&self, id: StreamId) -> Option<u64> {
        let state = self.lock();
        let waits = |incoming: &&Incoming| incoming.waiting.is_empty() && !incoming.ended && !incoming.closed;
        state.inlets.get(&id).filter(|_| state.lost.is_none()).filter(waits).map(|incoming| incoming.total)
    }

    /// The reader of a stream is gone.
    pub(super) fn leave(&self, id: StreamId) {
        let mut state = self.lock();
        let lost = state.lost.is_some();
        let Some(incoming) = state.inlets.get_mut(&id) else { return };
        if incoming.ended || lost {
            state.inlets.remove(&id);
            return;
        }
        incoming.closed = true;
        incoming.waiting = Vec::new();
        state.reply(id);
        drop(state);
        self.work.notify_one();
    }

    /// Gives as many of the bytes to a stream as it takes now, and says how many.
    pub(super) fn put(&self, id: StreamId, bytes: &[u8]) -> Result<usize, Stop> {
        let mut state = self.lock();
        if state.lost.is_some() {
            return Err(Stop::Lost);
        }
        let outgoing = state.outlets.get_mut(&id).filter(|outgoing| !outgoing.closed).ok_or(Stop::Closed)?;
        if !outgoing.waiting.is_empty() {
            return Ok(0);
        }
        let length = bytes.len().min(CHUNK).min(usize::try_from(outgoing.credit).unwrap_or(CHUNK));
        outgoing.waiting.extend_from_slice(&bytes[..length]);
        // No more than the credit.
        outgoing.credit -= u32::try_from(length).unwrap_or(outgoing.credit);
        if length > 0 {
            state.turn(id);
            drop(state);
            self.work.notify_one();
        }
        Ok(length)
    }

    /// No more is written to a stream.
    pub(super) fn finish(&self, id: StreamId) {
        let mut state = self.lock();
        if state.lost.is_some() {
            state.outlets.remove(&id);
        } else if let Some(outgoing) = state.outlets.get_mut(&id) {
            outgoing.ended = true;
            state.turn(id);
            drop(state);
            self.work.notify_one();
        }
    }

    /// Why nothing can be written to a stream any more, when that is so.
    pub(super) fn stopped(&self, id: StreamId) -> Option<Stop> {
        let state = self.lock();
        match state.outlets.get(&id) {
            _ if state.lost.is_some() => Some(Stop::Lost),
            Some(outgoing) if !outgoing.closed => None,
            _ => Some(Stop::Closed),
        }
    }

    /// Whether all of a stream, and its end, has been sent, or never will be.
    pub(super) fn is_finished(&self, id: StreamId) -> bool {
        let state = self.lock();
        state.lost.is_some() || !state.outlets.contains_key(&id)
    }
}

fn check_room(open: usize) -> Result<(), frame::FrameError> {
    if open < STREAMS { Ok(()) } else { Err(frame::FrameError::TooMany { limit: STREAMS }) }
}

#[cfg(test)]
#[path = "mux_tests.rs"]
mod tests;
