//! The state of one side of a connection: what may come of each stream, and what is to be sent next.

use super::frame::{self, Frame, StreamId};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};
use tokio::sync::Notify;

/// The most bytes of a stream that may wait for its reader.
pub(super) const WINDOW: u32 = 256 << 10;

/// Bytes that are written at once, as far as there are so many.
pub(super) const BATCH: usize = 64 << 10;

#[derive(Default)]
pub(super) struct State {
    pub(super) messages: VecDeque<Vec<u8>>,
    pub(super) message_bytes: usize,
    pub(super) inlets: HashMap<StreamId, Incoming>,
    pub(super) outlets: HashMap<StreamId, Outgoing>,
    /// Inlets that have credit to give, or are to be closed.
    pub(super) replies: VecDeque<StreamId>,
    /// Outlets that have bytes or an end to send.
    pub(super) turns: VecDeque<StreamId>,
    /// The last frame before silence, and whether [`super::mux::Mux::run`] is then done.
    pub(super) last: Option<(Vec<u8>, bool)>,
    pub(super) silent: bool,
    pub(super) lost: Option<String>,
}

#[derive(Default)]
pub(super) struct Incoming {
    pub(super) waiting: Vec<u8>,
    /// What may still come.
    pub(super) allowed: u32,
    /// What was read since credit was given last.
    pub(super) read: u32,
    /// All that came.
    pub(super) total: u64,
    pub(super) ended: bool,
    /// Its reader is gone.
    pub(super) closed: bool,
    pub(super) queued: bool,
    pub(super) ready: Arc<Notify>,
}

#[derive(Default)]
pub(super) struct Outgoing {
    /// At most [`frame::CHUNK`].
    pub(super) waiting: Vec<u8>,
    pub(super) credit: u32,
    /// No more is written.
    pub(super) ended: bool,
    /// The other side does not read any more.
    pub(super) closed: bool,
    pub(super) queued: bool,
    pub(super) ready: Arc<Notify>,
}

impl State {
    pub(super) fn reply(&mut self, id: StreamId) {
        if let Some(incoming) = self.inlets.get_mut(&id).filter(|incoming| !incoming.queued) {
            incoming.queued = true;
            self.replies.push_back(id);
        }
    }

    pub(super) fn turn(&mut self, id: StreamId) {
        if let Some(outgoing) = self.outlets.get_mut(&id).filter(|outgoing| !outgoing.queued) {
            outgoing.queued = true;
            self.turns.push_back(id);
        }
    }

    /// A frame of a stream from the other side.
    pub(super) fn take<M>(&mut self, frame: Frame<'_, M>) -> Result<(), String> {
        match frame {
            Frame::Message(_) => {}
            Frame::Data { stream, bytes } => {
                let incoming = self.inlets.get_mut(&stream).filter(|i| !i.ended).ok_or("bytes of a stream that is not open")?;
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                incoming.allowed = incoming.allowed.checked_sub(length).ok_or("more bytes of a stream than it was allowed")?;
                incoming.total += u64::from(length);
                if !incoming.closed {
                    incoming.waiting.extend_from_slice(&bytes);
                    incoming.ready.notify_one();
                }
            }
            Frame::Eof { stream } => {
                let incoming = self.inlets.get_mut(&stream).filter(|i| !i.ended).ok_or("the end of a stream that is not open")?;
                incoming.ended = true;
                incoming.ready.notify_one();
                if incoming.closed {
                    self.inlets.remove(&stream);
                }
            }
            // The end of a stream may have been on its way meanwhile.
            Frame::Credit { stream, bytes } => {
                if let Some(outgoing) = self.outlets.get_mut(&stream) {
                    let credit = outgoing.credit.checked_add(bytes).filter(|credit| *credit <= WINDOW);
                    outgoing.credit = credit.ok_or("more credit for a stream than there is room")?;
                    outgoing.ready.notify_one();
                }
            }
            Frame::Close { stream } => {
                if let Some(outgoing) = self.outlets.get_mut(&stream) {
                    outgoing.closed = true;
                    outgoing.waiting = Vec::new();
                    outgoing.ready.notify_one();
                }
            }
        }
        Ok(())
    }

    /// Fills a batch with what is to be sent. `Some` after the last frame before silence.
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
        let Some(incoming) = self.inlets.get_mut(&id) else { return };
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
        let Some(outgoing) = self.outlets.get_mut(&id) else { return };
        outgoing.queued = false;
        if !outgoing.waiting.is_empty() {
            append(&Frame::Data { stream: id, bytes: (&outgoing.waiting[..]).into() }, batch);
            outgoing.waiting.clear();
        }
        outgoing.ready.notify_one();
        if outgoing.ended {
            append(&Frame::Eof { stream: id }, batch);
            self.outlets.remove(&id);
        }
    }
}

/// Frames of streams are never too long: their bytes are at most [`frame::CHUNK`].
fn append(frame: &Frame<'_, ()>, batch: &mut Vec<u8>) {
    frame::encode(frame, frame::MAX_FROM_GUEST, batch).ok();
}
