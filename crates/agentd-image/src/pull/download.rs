//! What comes from a registry, counted on its way to where it goes, and no more of it than was said.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::AsyncWrite;

/// A writer that takes `total` bytes and tells how many it has.
pub(super) struct Download<W, F> {
    to: W,
    received: u64,
    total: u64,
    tell: F,
}

impl<W, F: FnMut(u64)> Download<W, F> {
    pub(super) fn new(to: W, total: u64, tell: F) -> Self {
        Self { to, received: 0, total, tell }
    }
}

impl<W: AsyncWrite + Unpin, F: FnMut(u64) + Unpin> AsyncWrite for Download<W, F> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.received.saturating_add(bytes.len() as u64) > self.total {
            return Poll::Ready(Err(io::Error::other("the registry sends more than the manifest says")));
        }
        let written = ready!(Pin::new(&mut self.to).poll_write(context, bytes))?;
        self.received += written as u64;
        let received = self.received;
        (self.tell)(received);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.to).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.to).poll_shutdown(context)
    }
}
