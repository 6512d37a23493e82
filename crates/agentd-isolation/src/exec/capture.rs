//! An exec that is run to its end while its output is kept.

use super::{Image, Running};
use crate::{link::Link, output::Keeper};
use agentd_core::{Command, EndReason, IsolationError, Outcome, StdinSource};
use std::{future::pending, os::fd::OwnedFd, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
};

/// What is kept of each stream when a command does not say.
pub(crate) const DEFAULT_CAPTURE: u64 = 1 << 20;

/// Runs a command to its end, keeping its output.
pub(crate) async fn run_to_end(link: Arc<Link>, command: Command, image: Image) -> Result<Outcome, IsolationError> {
    if command.pty.is_some() {
        return Err(IsolationError::Invalid { what: "command".to_owned(), reason: "a terminal needs exec_streaming".to_owned() });
    }
    let io = |source| IsolationError::Io { context: "pipe".to_owned(), source };
    let mut running = Running::start(link, &command, image).await?;
    let streams = std::mem::take(&mut running.streams);
    let receiver = |fd: Option<OwnedFd>| fd.map(pipe::Receiver::from_owned_fd).transpose().map_err(io);
    let (mut stdout, mut stderr) = (receiver(streams.stdout)?, receiver(streams.stderr)?);
    let mut stdin = streams.stdin.map(pipe::Sender::from_owned_fd).transpose().map_err(io)?;
    let StdinSource::Bytes(input) = command.stdin else {
        return collect(&mut running, &mut stdout, &mut stderr, command.capture).await;
    };
    let feed = async {
        if let Some(mut pipe) = stdin.take() {
            // A command that does not read its input is no error.
            pipe.write_all(&input).await.ok();
        }
        pending::<()>().await;
    };
    tokio::select! {
        outcome = collect(&mut running, &mut stdout, &mut stderr, command.capture) => outcome,
        () = feed => Err(IsolationError::Lost("input".to_owned())),
    }
}

async fn collect(
    running: &mut Running,
    stdout: &mut Option<pipe::Receiver>,
    stderr: &mut Option<pipe::Receiver>,
    capture: u64,
) -> Result<Outcome, IsolationError> {
    let budget = if capture == 0 { DEFAULT_CAPTURE } else { capture };
    let mut kept = [Keeper::new(budget), Keeper::new(budget)];
    let mut buffers = (vec![0u8; 16 << 10], vec![0u8; 16 << 10]);
    let mut total = 0u64;
    let limit = running.limits.output.map_or(u64::MAX, |b| b.0);
    let end = loop {
        // Not biased: a command that writes without end must not keep its end from being heard.
        let (stream, bytes) = tokio::select! {
            read = read_some(stdout, &mut buffers.0) => (0, &buffers.0[..read]),
            read = read_some(stderr, &mut buffers.1) => (1, &buffers.1[..read]),
            end = running.next() => match end? {
                Some(end) => break end,
                None => continue,
            },
        };
        total += bytes.len() as u64;
        kept[stream].push(bytes);
        if total > limit && running.reason.is_none() {
            running.end_for(EndReason::OutputLimit)?;
        }
    };
    // The tree is gone: what it wrote is in the pipes, and nothing is added any more.
    for (stream, pipe) in [(0, stdout), (1, stderr)] {
        while let Some(pipe) = pipe
            && let read @ 1.. = read_now(pipe, &mut buffers.0)
        {
            total += read as u64;
            kept[stream].push(&buffers.0[..read]);
        }
    }
    if total > limit {
        running.reason.get_or_insert(EndReason::OutputLimit);
    }
    let mut outcome = running.outcome(&end);
    [outcome.stdout, outcome.stderr] = kept.map(Keeper::finish);
    Ok(outcome)
}

/// Reads what there is; waits for ever at the end of a stream.
async fn read_some(pipe: &mut Option<pipe::Receiver>, buffer: &mut [u8]) -> usize {
    if let Some(open) = pipe {
        match open.read(buffer).await {
            Ok(read) if read > 0 => return read,
            _ => *pipe = None,
        }
    }
    pending().await
}

/// Reads what there is, and never waits. The pipe itself is asked: the runtime, which may not have heard yet that there is something in it,
/// would say that there is nothing (`pipe::Receiver::try_read`).
fn read_now(pipe: &pipe::Receiver, buffer: &mut [u8]) -> usize {
    rustix::io::retry_on_intr(|| rustix::io::read(pipe, &mut *buffer)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{pin::pin, task::Poll};

    #[tokio::test]
    async fn what_the_runtime_has_not_heard_of_is_read_all_the_same() {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let mut pipe = Some(pipe::Receiver::from_owned_fd(reader).unwrap());
        let mut buffer = [0; 8];
        std::future::poll_fn(|context| {
            assert!(pin!(read_some(&mut pipe, &mut buffer)).poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        rustix::io::write(&writer, b"end").unwrap();
        let pipe = pipe.unwrap();
        assert_eq!(pipe.try_read(&mut buffer).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        assert_eq!((read_now(&pipe, &mut buffer), &buffer[..3]), (3, &b"end"[..]));
        assert_eq!(read_now(&pipe, &mut buffer), 0);
    }
}
