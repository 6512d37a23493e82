//! A connection as a stream for TLS: the bytes that were already read, then the socket.

use crate::{budget::Meter, socket::Socket};
use rustix::net::Shutdown;
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One side of an inspected flow.
pub(crate) struct Wire {
    socket: Arc<Socket>,
    /// Bytes that were read from the socket earlier.
    early: Vec<u8>,
    /// Counts the bytes that were written, and limits them.
    meter: Meter,
    /// The wait for the limits on bytes.
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Wire {
    pub(crate) fn new(socket: Arc<Socket>, early: Vec<u8>, meter: Meter) -> Self {
        Self { socket, early, meter, waiting: None }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let length = self.early.len().min(buffer.remaining());
            buffer.put_slice(&self.early[..length]);
            self.early.drain(..length);
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.socket.poll_read_ready(cx))?;
            match self.socket.try_read(buffer.initialize_unfilled()) {
                Ok(length) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
            }
            ready!(self.socket.poll_write_ready(cx))?;
            let max = self.meter.allowance(bytes.len());
            if max == 0 && !bytes.is_empty() {
                let meter = self.meter.clone();
                self.waiting = Some(Box::pin(async move { meter.wait_out_of_turn().await }));
                continue;
            }
            match self.socket.try_write(&bytes[..max]) {
                Ok(length) => {
                    self.meter.spend(length);
                    self.meter.count(length);
                    return Poll::Ready(Ok(length));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match rustix::net::shutdown(&*self.socket, Shutdown::Write) {
            // The peer has already reset the connection.
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
            Err(errno) => Err(errno.into()),
        })
    }
}
