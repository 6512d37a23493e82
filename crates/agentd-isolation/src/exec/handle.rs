//! An exec whose streams the caller serves.

use super::{Image, Running};
use crate::link::Link;
use agentd_core::{Command, EndReason, ExecHandle, ExecStreams, IsolationError, Outcome, PtySize};
use agentd_supervisor::protocol::Request;
use async_trait::async_trait;
use std::{os::fd::OwnedFd, sync::Arc};
use tokio::sync::{mpsc, oneshot};

/// A running exec in the caller's hands. Its limits are watched whether it is waited for or not.
struct Handle {
    link: Arc<Link>,
    id: u32,
    streams: ExecStreams,
    terminal: Option<OwnedFd>,
    wishes: mpsc::UnboundedSender<EndReason>,
    outcome: oneshot::Receiver<Result<Outcome, IsolationError>>,
}

/// Starts a command whose streams the caller serves.
pub(crate) async fn stream(link: Arc<Link>, command: &Command, image: Image) -> Result<Box<dyn ExecHandle>, IsolationError> {
    Ok(hand_over(Running::start(link, command, image).await?))
}

/// The same, for one whose standard input is `stdin`, which may be a socket.
pub(crate) async fn stream_on(link: Arc<Link>, command: &Command, stdin: OwnedFd) -> Result<Box<dyn ExecHandle>, IsolationError> {
    Ok(hand_over(Running::start_on(link, command, Image::Named, Some(stdin)).await?))
}

fn hand_over(mut running: Running) -> Box<dyn ExecHandle> {
    let (wishes, wanted) = mpsc::unbounded_channel();
    let (teller, outcome) = oneshot::channel();
    running.wishes = Some(wanted);
    let (link, id) = (running.link.clone(), running.id);
    let (streams, terminal) = (std::mem::take(&mut running.streams), running.terminal.take());
    tokio::spawn(async move {
        let outcome = running.ended().await;
        // Nobody need be waiting.
        teller.send(outcome).ok();
    });
    Box::new(Handle { link, id, streams, terminal, wishes, outcome })
}

#[async_trait]
impl ExecHandle for Handle {
    fn take_streams(&mut self) -> ExecStreams {
        std::mem::take(&mut self.streams)
    }

    async fn signal(&self, signal: i32) -> Result<(), IsolationError> {
        self.link.request(&Request::Signal { id: self.id, signal }, &[])
    }

    async fn resize(&self, size: PtySize) -> Result<(), IsolationError> {
        let Some(terminal) = &self.terminal else {
            return Err(IsolationError::Invalid { what: "resize".to_owned(), reason: "the command has no terminal".to_owned() });
        };
        let size = rustix::termios::Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(terminal, size)
            .map_err(|e| IsolationError::Io { context: "resize the terminal".to_owned(), source: e.into() })
    }

    async fn end(&self, reason: EndReason) -> Result<(), IsolationError> {
        // One that has ended already needs no ending.
        self.wishes.send(reason).ok();
        Ok(())
    }

    async fn wait(&mut self) -> Result<Outcome, IsolationError> {
        (&mut self.outcome).await.unwrap_or_else(|_| Err(IsolationError::Lost("the outcome was told before".to_owned())))
    }
}
