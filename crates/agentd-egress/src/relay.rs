//! Moves bytes between two sockets without a copy to user space (`man 2 splice`).
//!
//! A direction holds a pipe only while the pipe has bytes. Nothing is read from a socket before all earlier bytes have been
//! written, so a slow receiver slows down the sender. Pipes are bounded for each sandbox, because the kernel accounts them to the
//! user (`man 7 pipe`, `pipe-user-pages-soft`).
//!
//! `splice` to a socket that its peer has reset raises SIGPIPE. Rust programs ignore this signal by default.

use crate::{budget::Meter, limits::MAX_IN_PIPE, socket::Socket};
use rustix::{
    net::Shutdown,
    pipe::{PipeFlags, SpliceFlags, pipe_with, splice},
};
use std::{
    io,
    os::fd::OwnedFd,
    sync::{Mutex, PoisonError},
};
use tokio::{
    io::Interest,
    sync::{Semaphore, SemaphorePermit},
};

/// Empty pipes that are kept for the next direction.
const SPARE: usize = 8;

/// An empty pipe, or one whose bytes are being moved.
#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

/// The pipes of one sandbox.
#[derive(Debug)]
pub(crate) struct PipePool {
    free: Semaphore,
    spare: Mutex<Vec<Pipe>>,
}

/// A pipe that is in use. It is closed when dropped, because it may contain bytes.
struct Held<'a> {
    pipe: Pipe,
    _permit: SemaphorePermit<'a>,
}

impl PipePool {
    pub(crate) fn new(max: usize) -> Self {
        Self { free: Semaphore::new(max.clamp(1, Semaphore::MAX_PERMITS)), spare: Mutex::default() }
    }

    async fn take(&self) -> io::Result<Held<'_>> {
        let permit = self.free.acquire().await.map_err(io::Error::other)?;
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let pipe = match spare {
            Some(pipe) => pipe,
            None => {
                let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
                Pipe { read, write }
            }
        };
        Ok(Held { pipe, _permit: permit })
    }

    /// Puts an empty pipe back into the pool.
    fn put(&self, held: Held<'_>) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE {
            spare.push(held.pipe);
        }
    }
}

/// The reason why a direction stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// The sender closed its side.
    End,
    /// All bytes that were wanted have been moved.
    All,
}

/// One direction of a flow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Direction<'a> {
    pub(crate) from: &'a Socket,
    pub(crate) to: &'a Socket,
    /// Counts the bytes that were written, and limits those that are read.
    pub(crate) meter: &'a Meter,
    pub(crate) pipes: &'a PipePool,
}

impl Direction<'_> {
    /// Moves bytes until the sender closes its side, or `left` bytes have been moved.
    pub(crate) async fn pump(&self, mut left: u64) -> io::Result<Pumped> {
        while left > 0 {
            self.from.readable().await?;
            self.meter.wait().await;
            let held = self.pipes.take().await?;
            loop {
                let max = self.meter.allowance(usize::try_from(left).unwrap_or(usize::MAX).min(MAX_IN_PIPE));
                if max == 0 {
                    break;
                }
                // The pipe is empty, so "would block" concerns the socket.
                let moved = self.from.try_io(Interest::READABLE, || {
                    Ok(splice(self.from, None, &held.pipe.write, None, max, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
                });
                match moved {
                    Ok(0) => {
                        self.pipes.put(held);
                        return Ok(Pumped::End);
                    }
                    Ok(moved) => {
                        self.meter.spend(moved);
                        self.empty(&held.pipe, moved).await?;
                        left = left.saturating_sub(moved as u64);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
                if left == 0 {
                    break;
                }
                // A flow that is always ready must not starve other flows.
                tokio::task::coop::consume_budget().await;
            }
            self.pipes.put(held);
        }
        Ok(Pumped::All)
    }

    /// Moves everything, then closes the receiver's side of the direction.
    pub(crate) async fn pump_to_end(&self) -> io::Result<()> {
        self.pump(u64::MAX).await?;
        self.finish()
    }

    /// Closes the sending side to the receiver.
    pub(crate) fn finish(&self) -> io::Result<()> {
        match rustix::net::shutdown(self.to, Shutdown::Write) {
            // The receiver has already reset the connection; the other direction reports it.
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Writes bytes that are in memory.
    pub(crate) async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.to.writable().await?;
            let max = self.meter.turn(bytes.len()).await;
            match self.to.try_write(&bytes[..max]) {
                Ok(written) => {
                    self.meter.spend(written);
                    self.meter.count(written);
                    bytes = &bytes[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn empty(&self, pipe: &Pipe, mut left: usize) -> io::Result<()> {
        while left > 0 {
            let moved = self
                .to
                .async_io(Interest::WRITABLE, || {
                    Ok(splice(&pipe.read, None, self.to, None, left, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
                })
                .await?;
            if moved == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            left -= moved.min(left);
            self.meter.count(moved);
        }
        Ok(())
    }
}

/// Reads what has arrived, up to `max` bytes in the buffer. Returns false at the end of the stream.
pub(crate) async fn read_some(from: &Socket, buffer: &mut Vec<u8>, max: usize) -> io::Result<bool> {
    const PART: usize = 4096;
    let room = max.saturating_sub(buffer.len()).min(PART);
    if room == 0 {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    loop {
        from.readable().await?;
        let mut part = [0; PART];
        match from.try_read(&mut part[..room]) {
            Ok(length) => {
                buffer.extend_from_slice(&part[..length]);
                return Ok(length > 0);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
