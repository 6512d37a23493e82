//! Asynchronous reading and writing of descriptors of any kind. Pipes, sockets and terminals are polled by the caller's runtime.

use crate::ready;
use rustix::fs::FileType;
use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf, unix::AsyncFd};

/// Buffer size of a transfer in bytes.
const PIECE: usize = 256 << 10;

/// Returns a reader of a descriptor of any kind. A descriptor that cannot be polled, such as a regular file, is read by a thread
/// of the runtime.
///
/// # Errors
/// The error of querying the descriptor, or of registering it with the runtime.
pub fn source(fd: OwnedFd) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
    Ok(if can_wait(&fd)? { Box::new(Descriptor::reader(fd)?) } else { Box::new(tokio::fs::File::from_std(fd.into())) })
}

/// Returns a writer to a descriptor of any kind. A descriptor that cannot be polled is written by a thread of the runtime. The
/// caller must flush the writer at the end.
///
/// # Errors
/// As [`source`].
pub fn sink(fd: OwnedFd) -> io::Result<Box<dyn AsyncWrite + Send + Unpin>> {
    Ok(if can_wait(&fd)? { Box::new(Descriptor::writer(fd)?) } else { Box::new(tokio::fs::File::from_std(fd.into())) })
}

fn can_wait(fd: &OwnedFd) -> io::Result<bool> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode);
    Ok(matches!(kind, FileType::Fifo | FileType::Socket) || rustix::termios::isatty(fd))
}

/// The reason why a transfer failed.
#[derive(Debug)]
pub enum Failed {
    /// The source could not be read.
    Reading(io::Error),
    /// The sink could not be written.
    Writing(io::Error),
    /// The source has more bytes than the limit.
    TooLarge,
}

/// Copies all bytes of `from` to `to`, flushes `to`, and returns the number of bytes.
///
/// # Errors
/// [`Failed::TooLarge`] if there are more than `limit` bytes; the sink may then have received a part of them.
pub async fn copy_up_to(
    from: &mut (dyn AsyncRead + Send + Unpin),
    to: &mut (dyn AsyncWrite + Send + Unpin),
    limit: u64,
) -> Result<u64, Failed> {
    let mut piece = vec![0; PIECE];
    let mut total = 0;
    loop {
        let read = from.read(&mut piece).await.map_err(Failed::Reading)?;
        if read == 0 {
            to.flush().await.map_err(Failed::Writing)?;
            return Ok(total);
        }
        total += read as u64;
        if total > limit {
            return Err(Failed::TooLarge);
        }
        to.write_all(&piece[..read]).await.map_err(Failed::Writing)?;
    }
}

/// One direction of a descriptor that can be polled.
pub struct Descriptor(AsyncFd<OwnedFd>);

impl Descriptor {
    /// Wraps a descriptor for reading, and makes it non-blocking.
    ///
    /// # Errors
    /// The error of making the descriptor non-blocking, or of registering it with the runtime.
    pub fn reader(fd: OwnedFd) -> io::Result<Self> {
        Self::new(fd, Interest::READABLE)
    }

    /// Wraps a descriptor for writing, and makes it non-blocking.
    ///
    /// # Errors
    /// As [`Descriptor::reader`].
    pub fn writer(fd: OwnedFd) -> io::Result<Self> {
        Self::new(fd, Interest::WRITABLE)
    }

    fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self(ready::owned(fd, interest)?))
    }
}

impl AsyncRead for Descriptor {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let read = guard.try_io(|fd| Ok(rustix::io::read(fd, buffer.initialize_unfilled())?));
            match read {
                Ok(Ok(read)) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Descriptor {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            match guard.try_io(|fd| Ok(rustix::io::write(fd, bytes)?)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(done) => return Poll::Ready(done),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
