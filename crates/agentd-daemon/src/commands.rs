//! Commands in sandboxes: attached commands, which end when their client leaves, and detached commands, whose output is logged.

use crate::{
    connection::Connection,
    error::DaemonError,
    host_approver::{self, HostWait},
    log,
    protection::SharedWatch,
    protocol::{ExecMessage, Reply, Stream},
    serve::Server,
};
use agentd_core::{Command, ControlReport, EndReason, ExecStreams, Sandbox, StdinSource};
use agentd_isolation::protect::{Interrupt, Report};
use agentd_log::LogFailure as _;
use agentd_sandboxes::Name;
use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::{Duration, Instant},
};

impl Server {
    pub(crate) async fn exec(&self, name: &Name, command: Command, client: &mut Connection) -> Result<(), DaemonError> {
        let limit = command.limits.wall;
        let (sandbox, running, watched) = self.used_while_connected(name, limit, client).await?;
        let began = Instant::now();
        let mut waits = self.runtimes.waits();
        let mut handle = sandbox.exec_streaming(command).await?;
        watched.deliver(|report| send_streams(client, &handle.take_streams(), sandbox.controls(), report)).await?;
        let outcome = loop {
            tokio::select! {
                outcome = handle.wait() => break outcome,
                wait = host_approver::next(&mut waits, name) => tell(client, wait),
                message = client.receive::<ExecMessage>() => match message {
                    Ok((ExecMessage::Signal(signal), _)) => handle.signal(signal).await?,
                    Ok((ExecMessage::Resize(size), _)) => handle.resize(size).await?,
                    Ok((ExecMessage::End(reason), _)) => handle.end(reason).await?,
                    // The client has ended or has released the command, so no process waits for the command any longer.
                    Ok((ExecMessage::Release, _)) | Err(_) => {
                        handle.end(EndReason::Cancelled).await?;
                        break handle.wait().await;
                    }
                },
            }
        };
        self.used(name).await;
        // The sandbox counts as used until the changes are recorded: a request that ends the sandbox reports them.
        let report = compare_after(&watched, &Interrupt::after_command(began, limit), client).await;
        drop(running);
        let sent = match outcome {
            Ok(outcome) => watched.deliver(|report| Ok(client.send(&Reply::Ended(Box::new(outcome), report), &[])?)).await,
            Err(error) => {
                watched.keep().await;
                Err(error.into())
            }
        };
        if sent.is_err() {
            watched.note(name, report).await;
        }
        sent
    }

    pub(crate) async fn detach(
        self: &Arc<Self>,
        name: &Name,
        mut command: Command,
        client: &mut Connection,
    ) -> Result<(), DaemonError> {
        self.exists(name).await?;
        command.stdin = StdinSource::Null;
        command.pty = None;
        let folder = self.state.log_directory(name);
        let kept = DaemonError::io(format!("open the command log in {}", folder.display()));
        let [notes, stdout, stderr] = log::open(folder.clone()).await.map_err(kept)?;
        let limit = command.limits.wall;
        let (sandbox, running, watched) = self.used_while_connected(name, limit, client).await?;
        let began = Instant::now();
        let mut handle = sandbox.exec_streaming(command).await?;
        let streams = handle.take_streams();
        for (from, to) in [streams.stdout, streams.stderr].into_iter().flatten().zip([stdout, stderr]) {
            // Output that cannot be written (the disk is full) is lost. The pipe is then closed, and the command continues.
            let of = name.clone();
            self.writers.start(async move {
                log::append(from, to).await.or_warn("write output of a detached command to its log", &of);
            });
        }
        // If the client is gone, the command continues, and the next client receives the report.
        watched
            .deliver(|report| client.send(&Reply::Made(sandbox.controls().to_vec(), report), &[]))
            .await
            .or_debug("reply to the client of a detached command", name);
        let (server, name) = (self.clone(), name.clone());
        self.writers.start(async move {
            handle.wait().await.or_warn("wait for a detached command", &name);
            server.used(&name).await;
            // The report goes to the log, and also to the next client.
            let report = watched.compare_after(&Interrupt::after_command(began, limit)).await;
            log::note(notes, report).await.or_warn("write changes of protected paths to the sandbox's log", &name);
            watched.keep().await;
            drop(running);
        });
        Ok(())
    }

    /// Starts the processes of a sandbox for a command with this time limit, and compares its protected paths, while the client
    /// waits.
    ///
    /// # Errors
    /// If the client leaves or asks for the end of the command, the comparison ends early, and the command must not start.
    pub(crate) async fn used_while_connected(
        &self,
        name: &Name,
        limit: Option<Duration>,
        client: &mut Connection,
    ) -> Result<(Arc<dyn Sandbox>, Arc<()>, SharedWatch), DaemonError> {
        let interrupt = Interrupt::within(limit);
        let mut used = std::pin::pin!(self.used_by_command(name, &interrupt));
        tokio::select! {
            biased;
            used = &mut used => return used,
            _ = client.receive::<ExecMessage>() => interrupt.ask(),
        }
        let (.., watched) = used.await?;
        watched.keep().await;
        Err(DaemonError::Refused(format!("start a command in sandbox {name}: the client left before the command was started")))
    }
}

/// Compares protected paths after a command. A signal that the client sends in the meantime, or its request to end the command,
/// ends the comparison. If the client leaves, the comparison continues, and the next client receives its result.
pub(crate) async fn compare_after(watched: &SharedWatch, interrupt: &Interrupt, client: &mut Connection) -> Report {
    let mut compared = std::pin::pin!(watched.compare_after(interrupt));
    loop {
        tokio::select! {
            biased;
            report = &mut compared => return report,
            message = client.receive::<ExecMessage>() => match message {
                Ok((ExecMessage::Resize(_), _)) => {}
                Ok(_) => interrupt.ask(),
                Err(_) => return compared.await,
            },
        }
    }
}

/// Tells the client of a command about a connection that waits for a decision. A client that has gone is found when the daemon
/// receives from it.
pub(crate) fn tell(client: &Connection, HostWait { to, intent, wait, .. }: HostWait) {
    client.send(&Reply::HostWaits { to, intent: intent.to_string(), wait }, &[]).or_debug("tell the client of a command", intent);
}

/// Sends the streams of a command to its client. Unless the command is an interpreter, the caller closes its copies afterwards.
/// If a copy stayed open, the command would wait for a reader, or the reader for the end of the stream.
pub(crate) fn send_streams(
    client: &Connection,
    streams: &ExecStreams,
    controls: &[ControlReport],
    report: Report,
) -> Result<(), DaemonError> {
    let all = [
        (Stream::Stdin, &streams.stdin),
        (Stream::Stdout, &streams.stdout),
        (Stream::Stderr, &streams.stderr),
        (Stream::Pty, &streams.pty),
    ];
    let there: Vec<_> = all.iter().filter_map(|(stream, fd)| Some((*stream, fd.as_ref()?.as_fd()))).collect();
    let fds: Vec<BorrowedFd<'_>> = there.iter().map(|(_, fd)| *fd).collect();
    let streams = there.iter().map(|(stream, _)| *stream).collect();
    Ok(client.send(&Reply::Started { streams, controls: controls.to_vec(), report }, &fds)?)
}

#[cfg(test)]
#[path = "commands_tests.rs"]
mod tests;
