//! The two ends of a stream on a carrier, and what carries its bytes to and from a descriptor.

use super::{frame::StreamId, mux::Mux};
use std::{io, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::Notify,
};

/// Why nothing more can be written to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Its reader is gone.
    Closed,
    /// The connection is.
    Lost,
}

/// Where the bytes of a stream come out. Dropped before the end, it tells the other side that nobody reads any more.
pub(super) struct Inlet {
    mux: Arc<Mux>,
    id: StreamId,
    ready: Arc<Notify>,
}

impl Inlet {
    pub(super) fn new(mux: Arc<Mux>, id: StreamId, ready: Arc<Notify>) -> Self {
        Self { mux, id, ready }
    }

    /// Waits for bytes; `None` at the end of the stream or of the connection.
    pub(super) async fn read(&mut self) -> Option<Vec<u8>> {
        loop {
            let bytes = self.mux.take(self.id)?;
            if !bytes.is_empty() {
                return Some(bytes);
            }
            self.ready.notified().await;
        }
    }

    /// What has come already.
    pub(super) fn read_now(&mut self) -> Vec<u8> {
        self.mux.take(self.id).unwrap_or_default()
    }

    /// Writes all that comes to `to`, until either ends.
    pub(super) async fn pour(mut self, mut to: impl AsyncWrite + Unpin) {
        while let Some(bytes) = self.read().await {
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.mux.leave(self.id);
    }
}

/// Where the bytes of a stream go in. Dropping it is the end of the stream.
pub(super) struct Outlet {
    mux: Arc<Mux>,
    id: StreamId,
    ready: Arc<Notify>,
}

impl Outlet {
    pub(super) fn new(mux: Arc<Mux>, id: StreamId, ready: Arc<Notify>) -> Self {
        Self { mux, id, ready }
    }

    /// Waits until all bytes have been taken.
    pub(super) async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Stop> {
        while !bytes.is_empty() {
            match self.mux.put(self.id, bytes)? {
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

    /// Carries all that `from` gives to its end, or until nobody reads it any more; gives how many bytes that was, or the error that was
    /// the end: that of a terminal whose other side is closed is one.
    pub(super) async fn carry(&mut self, from: &mut (impl AsyncRead + Unpin + ?Sized)) -> Result<io::Result<u64>, Stop> {
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

impl Drop for Outlet {
    fn drop(&mut self) {
        self.mux.finish(self.id);
    }
}
