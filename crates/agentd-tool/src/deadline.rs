//! The time limit of an operation.

use crate::limits::{self, Adjustable};
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
        Self::within(limits::TIME_MS, time_ms)
    }

    /// Returns the deadline of an operation that starts now and has other limits.
    pub(crate) fn within(limit: Adjustable, time_ms: Option<u64>) -> Self {
        Self(Instant::now() + Duration::from_millis(limit.of(time_ms)))
    }

    /// Returns true after the deadline.
    pub(crate) fn is_over(self) -> bool {
        Instant::now() >= self.0
    }

    /// Returns the time that is left.
    pub(crate) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
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
