//! Forwards the requests of a connection, each after its check.

use super::{BodyLength, Chunks, HeadError, RequestCheck, RequestHead};
use crate::{
    limits::MAX_FIRST_BYTES,
    record::{FlowRefusal, RequestLine, explanation},
    relay::{Direction, Pumped, read_some},
    socket::Socket,
};
use std::{io, time::Duration};
use tokio::time::timeout;

/// The reason why forwarding stopped before the client closed its side.
#[derive(Debug)]
pub(crate) enum Stopped {
    Refused(FlowRefusal),
    Broken(io::Error),
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl From<HeadError> for Stopped {
    fn from(error: HeadError) -> Self {
        Self::Refused(error.into())
    }
}

/// The requests of one client.
pub(crate) struct Requests<'a> {
    pub(crate) check: RequestCheck<'a>,
    /// The time for a head, from its first byte.
    pub(crate) time_limit: Duration,
    /// Bytes that were read and not yet forwarded.
    pending: Vec<u8>,
}

impl<'a> Requests<'a> {
    pub(crate) fn new(check: RequestCheck<'a>, time_limit: Duration) -> Self {
        Self { check, time_limit, pending: Vec::new() }
    }

    /// Reads and checks the next head. Returns `None` if the client has closed its side after a whole request.
    pub(crate) async fn next(&mut self, client: &Socket) -> Result<Option<RequestHead>, Stopped> {
        if self.pending.is_empty() {
            // An idle connection holds no buffer.
            self.pending = Vec::new();
            client.readable().await?;
        }
        let time_limit = self.time_limit;
        timeout(time_limit, self.head(client)).await.unwrap_or(Err(Stopped::Refused(FlowRefusal::TimedOut("request"))))
    }

    async fn head(&mut self, client: &Socket) -> Result<Option<RequestHead>, Stopped> {
        loop {
            if let Some(head) = self.check.head(&self.pending)? {
                return Ok(Some(head));
            }
            if !read_some(client, &mut self.pending, MAX_FIRST_BYTES).await? {
                return if self.pending.is_empty() {
                    Ok(None)
                } else {
                    Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
                };
            }
        }
    }

    /// Returns the method and path at the start of the bytes that were not forwarded: those of a request that was refused.
    pub(crate) fn refused(&self) -> Option<RequestLine> {
        let line = str::from_utf8(self.pending.split(|byte| *byte == b'\r').next()?).ok()?;
        let (method, rest) = line.split_once(' ')?;
        let target = rest.split([' ', '?']).next()?;
        let path = match target.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |start| &rest[start..]),
            None => target,
        };
        Some(RequestLine::new(method, path))
    }

    /// Forwards the request with this head, and all that follow, until the client closes its side.
    pub(crate) async fn forward(&mut self, first: RequestHead, to: Direction<'_>) -> Result<(), Stopped> {
        let mut next = Some(first);
        while let Some(head) = next {
            to.write(&self.pending[..head.length]).await?;
            self.pending.drain(..head.length);
            match head.body {
                BodyLength::Fixed(length) => self.fixed(length, to).await?,
                BodyLength::Chunked => self.chunked(to).await?,
            }
            next = self.next(to.from).await?;
        }
        Ok(to.finish()?)
    }

    /// Forwards `length` bytes of a body.
    async fn fixed(&mut self, length: u64, to: Direction<'_>) -> Result<(), Stopped> {
        let here = self.pending.len().min(usize::try_from(length).unwrap_or(usize::MAX));
        to.write(&self.pending[..here]).await?;
        self.pending.drain(..here);
        match to.pump(length - here as u64).await? {
            Pumped::All => Ok(()),
            Pumped::End => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }

    async fn chunked(&mut self, to: Direction<'_>) -> Result<(), Stopped> {
        let mut chunks = Chunks::default();
        loop {
            let body = chunks.scan(&self.pending)?;
            to.write(&self.pending[..body]).await?;
            self.pending.drain(..body);
            if chunks.is_done() {
                return Ok(());
            }
            let plain = chunks.plain();
            if plain > 0 {
                self.fixed(plain, to).await?;
                chunks.skip(plain);
            } else if !read_some(to.from, &mut self.pending, MAX_FIRST_BYTES).await? {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
}

/// The response to a first request that is refused.
pub(crate) fn refusal(error: &HeadError, deny_reason: Option<&str>) -> Vec<u8> {
    let text = explanation(error, deny_reason);
    let length = text.len();
    format!(
        "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n{text}"
    )
    .into_bytes()
}
