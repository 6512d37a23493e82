//! The streams of an interpreter while a cell runs, and what is kept of them.

use super::super::super::writer::OutputPiece;
use agentd_core::{Captured, ExecStreams};
use agentd_isolation::HeadTail;
use agentd_records::{ContentDigest, ContentHasher};
use std::{
    collections::VecDeque,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
};
use tokio::{
    io::AsyncReadExt as _,
    net::{self, unix::pipe::Receiver},
};

/// The most bytes that are read at once.
const PIECE: usize = 64 << 10;

/// What has happened to the streams of an interpreter.
pub(super) enum StreamEvent {
    /// Standard output (0) or standard error (1) has new bytes.
    Output(usize),
    /// The kernel has sent so many bytes.
    Reports(usize),
    /// The kernel accepts more of the request.
    Writable,
    /// The kernel has closed the socket.
    Closed,
}

/// The ends of an interpreter's streams on this side.
pub(super) struct CellStreams {
    /// The socket of requests and reports.
    control: net::UnixStream,
    /// The last bytes from the socket.
    received: Vec<u8>,
    /// Standard output and standard error; `None` after their end.
    outputs: [Option<Receiver>; 2],
    buffers: [Vec<u8>; 2],
}

impl CellStreams {
    /// Takes over the streams that the daemon has lent.
    ///
    /// # Errors
    /// A stream is missing, or cannot be registered with the runtime.
    pub fn new(streams: ExecStreams) -> io::Result<Self> {
        let missing = || io::Error::other("the daemon has not sent all streams of the interpreter");
        let control = UnixStream::from(streams.stdin.ok_or_else(missing)?);
        control.set_nonblocking(true)?;
        let pipe = |fd: Option<OwnedFd>| Receiver::from_owned_fd(fd.ok_or_else(missing)?).map(Some);
        Ok(Self {
            control: net::UnixStream::from_std(control)?,
            received: vec![0; PIECE],
            outputs: [pipe(streams.stdout)?, pipe(streams.stderr)?],
            buffers: [Vec::new(), Vec::new()],
        })
    }

    /// Waits for the next event: output only if `output` is true, and that the request can be continued only if `request` is
    /// true.
    pub async fn next(&mut self, output: bool, request: bool) -> StreamEvent {
        let ([stdout, stderr], [out, err]) = (&mut self.outputs, &mut self.buffers);
        // The branches have no order: unending output must not delay the end of the cell.
        tokio::select! {
            () = read(stdout, out), if output => StreamEvent::Output(0),
            () = read(stderr, err), if output => StreamEvent::Output(1),
            event = receive(&self.control, &mut self.received) => event,
            _ = self.control.writable(), if request => StreamEvent::Writable,
        }
    }

    /// Returns the last output of a stream.
    pub fn output(&self, stream: usize) -> &[u8] {
        &self.buffers[stream]
    }

    /// Returns the last `count` bytes of reports.
    pub fn reports(&self, count: usize) -> &[u8] {
        self.received.get(..count).unwrap_or_default()
    }

    /// Sends a part of the request. Returns the number of bytes sent.
    pub fn send(&self, request: &[u8]) -> io::Result<usize> {
        match self.control.try_write(request) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            sent => sent,
        }
    }

    /// Returns the number of bytes of reports that have arrived from an interpreter that has ended; 0 if none is left.
    pub fn rest(&mut self) -> usize {
        // The socket is non-blocking. The runtime may not have noticed yet that bytes have arrived.
        rustix::io::read(&self.control, self.received.as_mut_slice()).unwrap_or(0)
    }

    /// Returns the output that has already arrived in a stream. What a process that outlives the cell writes afterwards belongs
    /// to the next cell.
    pub fn arrived(&mut self, stream: usize) -> Vec<u8> {
        let Some(output) = &self.outputs[stream] else { return Vec::new() };
        // The call fails for no pipe.
        let count = rustix::io::ioctl_fionread(output).map_or(0, |bytes| usize::try_from(bytes).unwrap_or(0));
        let mut bytes = vec![0; count];
        let mut filled = 0;
        while filled < count {
            // The pipe is non-blocking.
            match rustix::io::read(output, &mut bytes[filled..]) {
                Ok(0) | Err(_) => break,
                Ok(read) => filled += read,
            }
        }
        bytes.truncate(filled);
        bytes
    }
}

async fn receive(control: &net::UnixStream, buffer: &mut [u8]) -> StreamEvent {
    loop {
        if control.readable().await.is_err() {
            return StreamEvent::Closed;
        }
        match control.try_read(buffer) {
            Ok(0) => return StreamEvent::Closed,
            Ok(read) => return StreamEvent::Reports(read),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return StreamEvent::Closed,
        }
    }
}

/// Reads the next bytes into `buffer`. Never completes once the stream has ended.
async fn read(output: &mut Option<Receiver>, buffer: &mut Vec<u8>) {
    if let Some(open) = output {
        buffer.clear();
        buffer.reserve(PIECE);
        if matches!(open.read_buf(buffer).await, Ok(1..)) {
            return;
        }
        *output = None;
    }
    std::future::pending().await
}

/// The output of a cell: counted, digested, partly kept, and forwarded if the caller reads it live.
pub(super) struct CellOutput {
    limit: u64,
    total: u64,
    live: bool,
    digests: [ContentHasher; 2],
    kept: [HeadTail; 2],
    /// Pieces that the caller has not received yet.
    pub waiting: VecDeque<OutputPiece>,
}

impl CellOutput {
    pub fn new(limit: Option<u64>, capture: u64, live: bool) -> Self {
        Self {
            limit: limit.unwrap_or(u64::MAX),
            total: 0,
            live,
            digests: Default::default(),
            kept: [0; 2].map(|_| HeadTail::new(capture)),
            waiting: VecDeque::new(),
        }
    }

    /// Adds output. What exceeds the limit is counted only.
    pub fn add(&mut self, stream: usize, bytes: &[u8]) {
        let bytes = self.count(bytes);
        self.digests[stream].update(bytes);
        self.kept[stream].push(bytes);
        if self.live && !bytes.is_empty() {
            let bytes = bytes.to_vec();
            self.waiting.push_back(if stream == 0 { OutputPiece::Out(bytes) } else { OutputPiece::Err(bytes) });
        }
    }

    /// Counts bytes against the limit. Returns the part within the limit.
    pub fn count<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let room = usize::try_from(self.limit.saturating_sub(self.total)).unwrap_or(usize::MAX);
        self.total = self.total.saturating_add(bytes.len() as u64);
        &bytes[..bytes.len().min(room)]
    }

    /// Returns true if the limit is exceeded.
    pub fn is_exceeded(&self) -> bool {
        self.total > self.limit
    }

    /// Returns the digests and the kept parts of both streams.
    pub fn finish(self) -> ([ContentDigest; 2], [Captured; 2]) {
        (self.digests.map(ContentHasher::finish), self.kept.map(HeadTail::finish))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_beyond_the_limit_is_counted_and_neither_kept_nor_forwarded() {
        let mut output = CellOutput::new(Some(4), 1 << 10, true);
        output.add(0, b"abc");
        assert!(!output.is_exceeded());
        output.add(1, b"de");
        assert!(output.is_exceeded());
        output.add(0, b"f");
        assert_eq!(output.waiting.len(), 2);
        let (digests, [stdout, stderr]) = output.finish();
        assert_eq!(digests, [ContentDigest::of(b"abc"), ContentDigest::of(b"d")]);
        assert_eq!((stdout.head, stderr.head), (b"abc".to_vec(), b"d".to_vec()));
    }
}
