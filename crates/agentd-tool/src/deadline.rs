//! The time limit of an operation.

use crate::limits;
use std::{
    io::{self, Read},
    time::{Duration, Instant},
};

/// The moment at which an operation stops.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// Returns the deadline of an operation that starts now.
    pub(crate) fn of(time_ms: Option<u64>) -> Self {
        Self(Instant::now() + Duration::from_millis(limits::TIME_MS.of(time_ms)))
    }

    /// Returns true after the deadline.
    pub(crate) fn is_over(self) -> bool {
        Instant::now() >= self.0
    }

    /// Returns a reader that fails with [`io::ErrorKind::TimedOut`] after the deadline.
    pub(crate) fn reader<R: Read>(self, inner: R) -> impl Read {
        DeadlineReader { inner, deadline: self }
    }
}

struct DeadlineReader<R> {
    inner: R,
    deadline: Deadline,
}

impl<R: Read> Read for DeadlineReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.deadline.is_over() { Err(io::ErrorKind::TimedOut.into()) } else { self.inner.read(buffer) }
    }
}
