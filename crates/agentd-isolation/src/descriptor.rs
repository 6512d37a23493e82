//! A descriptor of any kind that can be waited for — pipe, socket, terminal — read and written with the caller's runtime.

use crate::ready;
use rustix::fs::FileType;
use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf, unix::AsyncFd};

/// How much of a file is in memory while it is carried.
const PIECE: usize = 256 << 10;

/// Reads from a descriptor of any kind. What cannot be waited for, as a regular file, is read by a thread of the runtime's.
pub(crate) fn source(fd: OwnedFd) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
    Ok(if can_wait(&fd)? { Box::new(Descriptor::reader(fd)?) } else { Box::new(tokio::fs::File::from_std(fd.into())) })
}

/// Writes to a descriptor of any kind, likewise. To be flushed at the end.
pub(crate) fn sink(fd: OwnedFd) -> io::Result<Box<dyn AsyncWrite + Send + Unpin>> {
    Ok(if can_wait(&fd)? { Box::new(Descriptor::writer(fd)?) } else { Box::new(tokio::fs::File::from_std(fd.into())) })
}

fn can_wait(fd: &OwnedFd) -> io::Result<bool> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode);
    Ok(matches!(kind, FileType::Fifo | FileType::Socket) || rustix::termios::isatty(fd))
}

/// Which of the two failed that bytes were carried between.
#[derive(Debug)]
pub(crate) enum Failed {
    Reading(io::Error),
    Writing(io::Error),
    /// There is more than the limit.
    TooLarge,
}

/// Carries at most `limit` bytes, all that there are; gives how many.
pub(crate) async fn carry(
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

/// One direction of a descriptor.
pub(crate) struct Descriptor(AsyncFd<OwnedFd>);

impl Descriptor {
    /// To read from. It is made non-blocking.
    pub(crate) fn reader(fd: OwnedFd) -> io::Result<Self> {
        Self::new(fd, Interest::READABLE)
    }

    /// To write to. It is made non-blocking.
    pub(crate) fn writer(fd: OwnedFd) -> io::Result<Self> {
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
