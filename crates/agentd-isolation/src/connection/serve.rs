//! The task that serves the connection: it receives the supervisor's events, and sends the requests that are queued.

use super::{ExecEvent, SupervisorConnection, lock};
use crate::ready;
use agentd_core::{Control, ControlError, IsolationError};
use agentd_supervisor::{
    channel::{Channel, ChannelError},
    protocol::{Event, SpawnStep},
};
use std::{
    future::pending,
    os::fd::{AsFd, OwnedFd},
    sync::Weak,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
};

/// Reads the supervisor's events and sends queued requests until the connection ends. Then kills the sandbox and records the
/// loss.
pub(super) async fn serve(mut channel: AsyncFd<Channel>, connection: Weak<SupervisorConnection>) {
    let why = loop {
        match channel.get_mut().buffered::<Event>() {
            Ok(Some((event, fds))) => match connection.upgrade().map(|connection| connection.dispatch(event, fds)) {
                Some(Ok(())) => {}
                Some(Err(violation)) => break violation.to_owned(),
                None => return,
            },
            Ok(None) => {
                if let Err(error) = exchange(&mut channel, &connection).await {
                    break error.to_string();
                }
            }
            Err(error) => break error.to_string(),
        }
    };
    if let Some(connection) = connection.upgrade() {
        tracing::debug!(why, "connection to the supervisor ended");
        // A supervisor that broke the protocol must not keep running commands.
        connection.kill();
        connection.lose(IsolationError::SupervisorDied, &why);
    }
}

/// Waits until bytes could be read, requests were queued, or the socket has space for queued requests.
async fn exchange(channel: &mut AsyncFd<Channel>, connection: &Weak<SupervisorConnection>) -> Result<(), ChannelError> {
    let Some(connection) = connection.upgrade() else { return Err(ChannelError::Closed) };
    let full = {
        let mut send_queue = lock(&connection.send_queue);
        send_queue.flush()?.then(|| send_queue.socket())
    };
    let room = async {
        match &full {
            // Registered only while requests are queued. Otherwise every request that the peer reads would wake this task.
            Some(socket) => ready::once(socket.as_fd(), Interest::WRITABLE).await,
            None => pending().await,
        }
    };
    tokio::select! {
        readable = channel.readable_mut() => {
            let mut guard = readable?;
            if !guard.get_inner_mut().fill()? {
                guard.clear_ready();
            }
            Ok(())
        }
        writable = room => writable.map_err(ChannelError::from),
        () = connection.waiting.notified() => Ok(()),
    }
}

impl SupervisorConnection {
    /// Passes an event to its exec. The error states how the supervisor broke the protocol.
    fn dispatch(&self, event: Event, mut fds: Vec<OwnedFd>) -> Result<(), &'static str> {
        let (id, events) = match event {
            Event::Hello { .. } => return Err("the supervisor sent a second greeting"),
            Event::Terminal { id } => {
                (id, ExecEvent::Terminal(fds.pop().ok_or("the supervisor sent a terminal event without a file descriptor")?))
            }
            Event::Ended { id, status, usage, process_limit } => {
                lock(&self.used).add(usage);
                (id, ExecEvent::Ended { status, usage, process_limit })
            }
            Event::SpawnFailed { id, errno, step } => (id, ExecEvent::SpawnFailed(spawn_error(step, errno))),
            Event::Opened { id, errno } => (id, ExecEvent::Opened(fds.pop().filter(|_| errno == 0).ok_or(errno))),
        };
        match lock(&self.listeners).get(&id).map(|listener| listener.try_send(events)) {
            Some(Err(mpsc::error::TrySendError::Full(_))) => {
                Err("the supervisor sent more events of one exec than the protocol allows")
            }
            // An exec whose caller stopped waiting has no listener.
            _ => Ok(()),
        }
    }
}

/// Returns the error for a failed step between fork and exec. The caller adds the name of the program.
fn spawn_error(step: SpawnStep, errno: i32) -> IsolationError {
    let (control, call, remedy) = match step {
        SpawnStep::Exec => return IsolationError::Spawn { program: String::new(), errno },
        SpawnStep::Chdir => (
            Control::Exec,
            "chdir to the working directory",
            "name a directory that exists in the sandbox, for example in a grant",
        ),
        SpawnStep::Rlimits => {
            (Control::Rlimits, "set the limits of the command", "request no more than the caller's own hard limits (ulimit -H)")
        }
        SpawnStep::Fork => (Control::Exec, "start a process", "raise the process limit"),
    };
    ControlError::new(control, call, Some(errno)).remedy(remedy).into()
}
