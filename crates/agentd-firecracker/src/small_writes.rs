//! Writes of the guest to a vsock connection.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::AsyncWrite;

/// The maximum number of bytes of one write.
///
/// The guest's kernel sends a write as packets of at most 64 KiB. Recent kernels keep a packet above 32 KiB in several pieces of
/// memory (`virtio_vsock_alloc_skb`). If the host's socket accepts only the first piece, a Firecracker version without its pull
/// request 5485 sends that piece twice. A smaller packet has only one piece.
const MAX_WRITE: usize = 16 << 10;

/// A writer that limits the size of each write, so that the guest's kernel keeps each packet in one piece of memory.
pub struct SmallWrites<W>(pub W);

impl<W: AsyncWrite + Unpin> AsyncWrite for SmallWrites<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let length = bytes.len().min(MAX_WRITE);
        Pin::new(&mut self.0).poll_write(cx, &bytes[..length])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn no_write_is_larger_than_one_piece_and_all_bytes_arrive_in_order() {
        let bytes: Vec<u8> = (0..3 * MAX_WRITE + 5).map(|number| u8::try_from(number % 251).unwrap()).collect();
        let mut writer = SmallWrites(Vec::new());
        assert_eq!(writer.write(&bytes).await.unwrap(), MAX_WRITE);
        writer.write_all(&bytes[MAX_WRITE..]).await.unwrap();
        assert_eq!(writer.0, bytes);
    }
}
