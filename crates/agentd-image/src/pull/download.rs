//! A writer that counts and limits the bytes of a download.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::AsyncWrite;

/// Forwards at most `total` bytes to `to` and calls `report` with the number received so far.
pub(super) struct Download<W, F> {
    to: W,
    received: u64,
    total: u64,
    report: F,
}

impl<W, F: FnMut(u64)> Download<W, F> {
    pub(super) fn new(to: W, total: u64, report: F) -> Self {
        Self { to, received: 0, total, report }
    }
}

impl<W: AsyncWrite + Unpin, F: FnMut(u64) + Unpin> AsyncWrite for Download<W, F> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.received.saturating_add(bytes.len() as u64) > self.total {
            return Poll::Ready(Err(io::Error::other("the registry sent more bytes than the manifest specifies")));
        }
        let written = ready!(Pin::new(&mut self.to).poll_write(context, bytes))?;
        self.received += written as u64;
        let received = self.received;
        (self.report)(received);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.to).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.to).poll_shutdown(context)
    }
}
