//! The two ends of a stream on a transport, and the copying of bytes between a stream and a reader or writer.

use super::{frame::StreamId, mux::Mux};
use std::{io, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::Notify,
};

/// The reason why nothing more can be written to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The reader has closed the stream.
    Closed,
    /// The connection is lost.
    Lost,
}

/// The receiving end of a stream. Dropping it before the end of the stream sends a close to the other side.
pub(super) struct RecvStream {
    mux: Arc<Mux>,
    id: StreamId,
    ready: Arc<Notify>,
}

impl RecvStream {
    pub(super) fn new(mux: Arc<Mux>, id: StreamId, ready: Arc<Notify>) -> Self {
        Self { mux, id, ready }
    }

    /// Waits for bytes; returns `None` at the end of the stream or of the connection.
    pub(super) async fn read(&mut self) -> Option<Vec<u8>> {
        loop {
            let bytes = self.mux.take(self.id)?;
            if !bytes.is_empty() {
                return Some(bytes);
            }
            self.ready.notified().await;
        }
    }

    /// Returns true if [`RecvStream::read`] has returned everything that the writer sent, and the writer had not failed.
    pub(super) fn is_complete(&self) -> bool {
        self.mux.is_complete(self.id)
    }

    /// Closes the stream, and waits until the other side has ended it, or the connection is lost.
    pub(super) async fn close(self) {
        self.mux.close_recv(self.id);
        while self.mux.is_unended(self.id) {
            self.ready.notified().await;
        }
    }

    /// Returns the number of bytes that have already arrived.
    pub(super) fn arrived(&self) -> usize {
        self.mux.arrived(self.id)
    }

    /// Returns the bytes that have already arrived.
    pub(super) fn read_now(&mut self) -> Vec<u8> {
        self.mux.take(self.id).unwrap_or_default()
    }

    /// Copies the stream to `to`, until its end or a write error.
    pub(super) async fn copy_to(mut self, mut to: impl AsyncWrite + Unpin) {
        while let Some(bytes) = self.read().await {
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        self.mux.close_recv(self.id);
    }
}

/// The sending end of a stream. Dropping it ends the stream.
pub(super) struct SendStream {
    mux: Arc<Mux>,
    id: StreamId,
    ready: Arc<Notify>,
}

impl SendStream {
    pub(super) fn new(mux: Arc<Mux>, id: StreamId, ready: Arc<Notify>) -> Self {
        Self { mux, id, ready }
    }

    /// Queues `bytes`, waiting for credit, and returns once all have been queued.
    pub(super) async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Stop> {
        while !bytes.is_empty() {
            match self.mux.try_send(self.id, bytes)? {
                0 => self.ready.notified().await,
                taken => bytes = &bytes[taken..],
            }
        }
        Ok(())
    }

    /// Ends the stream, and waits until all of it has been sent.
    pub(super) async fn finish(self) {
        self.mux.finish(self.id);
        while !self.mux.is_finished(self.id) {
            self.ready.notified().await;
        }
    }

    /// Ends the stream as incomplete, and waits until that has been sent.
    pub(super) async fn abort(self) {
        self.mux.abort(self.id);
        self.finish().await;
    }

    /// Copies `from` to the stream, until its end or until the stream is closed. Returns the number of bytes, or the read error.
    /// A terminal whose other side is closed ends with a read error.
    pub(super) async fn copy_from(&mut self, from: &mut (impl AsyncRead + Unpin + ?Sized)) -> Result<io::Result<u64>, Stop> {
        let mut buffer = vec![0; 16 << 10];
        let mut total = 0;
        loop {
            let read = tokio::select! {
                read = from.read(&mut buffer) => read,
                stop = self.stopped() => return Err(stop),
            };
            match read {
                Ok(0) => return Ok(Ok(total)),
                Ok(read) => {
                    self.write(&buffer[..read]).await?;
                    total += read as u64;
                }
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    async fn stopped(&self) -> Stop {
        loop {
            if let Some(stop) = self.mux.stopped(self.id) {
                return stop;
            }
            self.ready.notified().await;
        }
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        self.mux.finish(self.id);
    }
}
