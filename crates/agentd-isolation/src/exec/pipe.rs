//! Pipes as streams of a captured exec.

use super::transport::{Input, Output};
use agentd_core::IsolationError;
use agentd_log::LogFailure as _;
use std::os::fd::OwnedFd;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe::{Receiver, Sender},
};

/// Bytes read at once.
const PIECE: usize = 16 << 10;

fn error(source: std::io::Error) -> IsolationError {
    IsolationError::Io { context: "register a pipe of the command with tokio".to_owned(), source }
}

/// Creates the reading end of a pipe.
pub(super) fn receiver(fd: OwnedFd) -> Result<Receiver, IsolationError> {
    Receiver::from_owned_fd(fd).map_err(error)
}

/// Creates the writing end of a pipe.
pub(super) fn sender(fd: OwnedFd) -> Result<Sender, IsolationError> {
    Sender::from_owned_fd(fd).map_err(error)
}

impl Input for Sender {
    async fn write_all(&mut self, bytes: &[u8]) {
        AsyncWriteExt::write_all(self, bytes).await.or_debug("write standard input of a command", &*self);
    }
}

impl Output for Receiver {
    async fn read(&mut self, buffer: &mut Vec<u8>) -> bool {
        buffer.clear();
        buffer.reserve_exact(PIECE);
        matches!(self.read_buf(buffer).await, Ok(1..))
    }

    fn arrived(&self) -> usize {
        // The call fails for no pipe.
        rustix::io::ioctl_fionread(self).map_or(0, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// Reads with a direct system call. `Receiver::try_read` would report no bytes if the runtime has not yet polled their
    /// arrival.
    fn read_now(&mut self, buffer: &mut Vec<u8>) -> bool {
        buffer.resize(PIECE, 0);
        let read = rustix::io::retry_on_intr(|| rustix::io::read(&*self, &mut buffer[..])).unwrap_or(0);
        buffer.truncate(read);
        read > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{pin::pin, task::Poll};

    #[tokio::test]
    async fn read_now_returns_bytes_not_yet_polled_by_runtime() {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let mut pipe = receiver(reader).unwrap();
        let mut buffer = Vec::new();
        std::future::poll_fn(|context| {
            assert!(pin!(Output::read(&mut pipe, &mut buffer)).poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        rustix::io::write(&writer, b"end").unwrap();
        assert_eq!(pipe.try_read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        assert_eq!(pipe.arrived(), 3);
        assert!(pipe.read_now(&mut buffer));
        assert_eq!(buffer, b"end");
        assert_eq!((pipe.arrived(), pipe.read_now(&mut buffer)), (0, false));
    }
}
