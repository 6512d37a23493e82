//! Commands in sandboxes: one with a client, whose end is the command's, and one without, whose output is kept.

use crate::{
    connection::Connection,
    error::KeeperError,
    log,
    protocol::{During, Reply, Stream},
    serve::Keeper,
};
use agentd_core::{Command, EndReason, ExecStreams, LayerReport, StdinSource};
use agentd_sandboxes::Name;
use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

impl Keeper {
    pub(crate) async fn exec(&self, name: &Name, command: Command, client: &mut Connection) -> Result<(), KeeperError> {
        let (sandbox, running) = self.used_by(name).await?;
        let mut handle = sandbox.exec_streaming(command).await?;
        send_streams(client, handle.take_streams(), sandbox.layers())?;
        let outcome = loop {
            tokio::select! {
                outcome = handle.wait() => break outcome,
                said = client.receive::<During>() => match said {
                    Ok((During::Signal(signal), _)) => handle.signal(signal).await?,
                    Ok((During::Resize(size), _)) => handle.resize(size).await?,
                    Ok((During::End(reason), _)) => handle.end(reason).await?,
                    // Nobody waits for it any more.
                    Err(_) => {
                        handle.end(EndReason::Cancelled).await?;
                        break handle.wait().await;
                    }
                },
            }
        };
        drop(running);
        self.used(name);
        client.send(&Reply::Ended(Box::new(outcome?)), &[])?;
        Ok(())
    }

    pub(crate) async fn detach(self: &Arc<Self>, name: &Name, mut command: Command) -> Result<Vec<LayerReport>, KeeperError> {
        self.state.record(name)?;
        command.stdin = StdinSource::Null;
        command.pty = None;
        let folder = self.state.log_directory(name);
        let kept = |source| KeeperError::Refused(format!("the log in {}: {source}", folder.display()));
        let logs = [log::open(&folder).map_err(kept)?, log::open(&folder).map_err(kept)?];
        let (sandbox, running) = self.used_by(name).await?;
        let mut handle = sandbox.exec_streaming(command).await?;
        let streams = handle.take_streams();
        for (from, to) in [streams.stdout, streams.stderr].into_iter().flatten().zip(logs) {
            // What cannot be kept (the disk is full) is lost; the command goes on with a pipe that nobody reads closed.
            tokio::spawn(async move { log::append(from, to).await.ok() });
        }
        let (keeper, name) = (self.clone(), name.clone());
        tokio::spawn(async move {
            handle.wait().await.ok();
            drop(running);
            keeper.used(&name);
        });
        Ok(sandbox.layers().to_vec())
    }
}

/// Gives a client the streams of its command. Ours are closed then: they would keep the command waiting for a reader, or its reader for an
/// end.
fn send_streams(client: &Connection, streams: ExecStreams, layers: &[LayerReport]) -> Result<(), KeeperError> {
    let all = [
        (Stream::Stdin, streams.stdin),
        (Stream::Stdout, streams.stdout),
        (Stream::Stderr, streams.stderr),
        (Stream::Pty, streams.pty),
    ];
    let there: Vec<_> = all.iter().filter_map(|(stream, fd)| Some((*stream, fd.as_ref()?.as_fd()))).collect();
    let fds: Vec<BorrowedFd<'_>> = there.iter().map(|(_, fd)| *fd).collect();
    let streams = there.iter().map(|(stream, _)| *stream).collect();
    Ok(client.send(&Reply::Started { streams, layers: layers.to_vec() }, &fds)?)
}
