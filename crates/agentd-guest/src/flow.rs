//! The state of one side of a connection: flow control of each stream, and the queues of frames to send.

use super::frame::{self, Frame, StreamId, StreamKind};
use agentd_log::LogFailure as _;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};
use tokio::sync::Notify;

/// The maximum number of bytes of a stream that may be buffered for its reader.
pub(super) const WINDOW: u32 = 256 << 10;

/// The same for a stream of a connection. A guest may have many connections at once.
const CONNECTION_WINDOW: u32 = 64 << 10;

/// Returns the window of streams of this kind.
pub(super) fn window(kind: StreamKind) -> u32 {
    match kind {
        StreamKind::Up | StreamKind::Down => CONNECTION_WINDOW,
        StreamKind::Input | StreamKind::Output | StreamKind::Error => WINDOW,
    }
}

/// The number of bytes at which a batch of frames is written to the transport.
pub(super) const BATCH: usize = 64 << 10;

#[derive(Default)]
pub(super) struct MuxState {
    pub(super) messages: VecDeque<Vec<u8>>,
    pub(super) message_bytes: usize,
    pub(super) recv_streams: HashMap<StreamId, Incoming>,
    pub(super) send_streams: HashMap<StreamId, Outgoing>,
    /// Receiving streams that must grant credit or send a close.
    pub(super) replies: VecDeque<StreamId>,
    /// Sending streams that must send bytes or their end.
    pub(super) turns: VecDeque<StreamId>,
    /// The last frame before a pause, and whether [`super::mux::Mux::run`] returns after it.
    pub(super) last: Option<(Vec<u8>, bool)>,
    pub(super) silent: bool,
    pub(super) lost: Option<String>,
}

#[derive(Default)]
pub(super) struct Incoming {
    pub(super) waiting: Vec<u8>,
    /// Bytes that the other side may still send.
    pub(super) allowed: u32,
    /// Bytes read since credit was last granted.
    pub(super) read: u32,
    /// All bytes received.
    pub(super) total: u64,
    pub(super) ended: bool,
    /// The writer has failed, so that the stream is incomplete.
    pub(super) aborted: bool,
    /// The reader has closed the stream.
    pub(super) closed: bool,
    pub(super) queued: bool,
    pub(super) ready: Arc<Notify>,
}

#[derive(Default)]
pub(super) struct Outgoing {
    /// At most [`frame::CHUNK`] bytes.
    pub(super) waiting: Vec<u8>,
    pub(super) credit: u32,
    /// The writer has finished.
    pub(super) ended: bool,
    /// The writer has failed, so that the stream is incomplete.
    pub(super) aborted: bool,
    /// The other side has closed the stream.
    pub(super) closed: bool,
    pub(super) queued: bool,
    pub(super) ready: Arc<Notify>,
}

impl MuxState {
    pub(super) fn reply(&mut self, id: StreamId) {
        if let Some(incoming) = self.recv_streams.get_mut(&id).filter(|incoming| !incoming.queued) {
            incoming.queued = true;
            self.replies.push_back(id);
        }
    }

    pub(super) fn turn(&mut self, id: StreamId) {
        if let Some(outgoing) = self.send_streams.get_mut(&id).filter(|outgoing| !outgoing.queued) {
            outgoing.queued = true;
            self.turns.push_back(id);
        }
    }

    /// Handles a frame of a stream from the other side.
    pub(super) fn take<M>(&mut self, frame: Frame<'_, M>) -> Result<(), String> {
        match frame {
            Frame::Message(_) => {}
            Frame::Data { stream, bytes } => {
                let incoming = self
                    .recv_streams
                    .get_mut(&stream)
                    .filter(|i| !i.ended)
                    .ok_or("the peer sent data for a stream that is not open")?;
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                incoming.allowed =
                    incoming.allowed.checked_sub(length).ok_or("the peer sent more data than the credit of the stream")?;
                incoming.total += u64::from(length);
                if !incoming.closed {
                    incoming.waiting.extend_from_slice(&bytes);
                    incoming.ready.notify_one();
                }
            }
            Frame::Eof { stream } => self.end(stream, false)?,
            Frame::Abort { stream } => self.end(stream, true)?,
            // Credit and close may arrive for a stream that has already ended; both are then ignored.
            Frame::Credit { stream, bytes } => {
                if let Some(outgoing) = self.send_streams.get_mut(&stream) {
                    let credit = outgoing.credit.checked_add(bytes).filter(|credit| *credit <= window(stream.kind));
                    outgoing.credit = credit.ok_or("the peer granted more credit than the window of the stream")?;
                    outgoing.ready.notify_one();
                }
            }
            Frame::Close { stream } => {
                if let Some(outgoing) = self.send_streams.get_mut(&stream) {
                    outgoing.closed = true;
                    outgoing.waiting = Vec::new();
                    outgoing.ready.notify_one();
                }
            }
        }
        Ok(())
    }

    /// Handles the end of a stream from the other side.
    fn end(&mut self, stream: StreamId, aborted: bool) -> Result<(), String> {
        let incoming =
            self.recv_streams.get_mut(&stream).filter(|i| !i.ended).ok_or("the peer ended a stream that is not open")?;
        (incoming.ended, incoming.aborted) = (true, aborted);
        incoming.ready.notify_one();
        if incoming.closed {
            self.recv_streams.remove(&stream);
        }
        Ok(())
    }

    /// Fills a batch with queued frames. Returns `Some` when the batch ends with the last frame before a pause; the value is
    /// true if [`super::mux::Mux::run`] then returns.
    pub(super) fn fill(&mut self, batch: &mut Vec<u8>) -> Option<bool> {
        if self.silent {
            return None;
        }
        self.messages.drain(..).for_each(|message| batch.extend(message));
        self.message_bytes = 0;
        if let Some((last, stop)) = self.last.take() {
            batch.extend(last);
            self.silent = true;
            return Some(stop);
        }
        while let Some(id) = self.replies.pop_front() {
            self.answer(id, batch);
        }
        while batch.len() < BATCH
            && let Some(id) = self.turns.pop_front()
        {
            self.send(id, batch);
        }
        None
    }

    fn answer(&mut self, id: StreamId, batch: &mut Vec<u8>) {
        let Some(incoming) = self.recv_streams.get_mut(&id) else { return };
        incoming.queued = false;
        if incoming.closed {
            append(&Frame::Close { stream: id }, batch);
        } else if incoming.read > 0 {
            let bytes = std::mem::take(&mut incoming.read);
            incoming.allowed += bytes;
            append(&Frame::Credit { stream: id, bytes }, batch);
        }
    }

    fn send(&mut self, id: StreamId, batch: &mut Vec<u8>) {
        let Some(outgoing) = self.send_streams.get_mut(&id) else { return };
        outgoing.queued = false;
        if !outgoing.waiting.is_empty() {
            append(&Frame::Data { stream: id, bytes: (&outgoing.waiting[..]).into() }, batch);
            outgoing.waiting.clear();
        }
        outgoing.ready.notify_one();
        if outgoing.ended {
            append(&if outgoing.aborted { Frame::Abort { stream: id } } else { Frame::Eof { stream: id } }, batch);
            self.send_streams.remove(&id);
        }
    }
}

/// Appends a frame of a stream. Such frames never exceed the limit, because they carry at most [`frame::CHUNK`] bytes.
fn append(frame: &Frame<'_, ()>, batch: &mut Vec<u8>) {
    frame::encode(frame, frame::MAX_FROM_GUEST, batch).or_warn("encode a stream frame", "guest");
}
