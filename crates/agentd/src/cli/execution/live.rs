//! The caller of an intent while it is executed.

use super::super::writer::{self, Output, OutputPiece};
use agentd_engine::{Operation, ValidIntent};
use agentd_log::LogFailure as _;
use agentd_server::CallEvent;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Number of pieces that may wait for the caller before the command is blocked.
const PIECES: usize = 4;

/// The caller of an intent while it is executed.
pub(in super::super) enum LiveCaller {
    /// The user of the command line.
    CommandLine {
        /// True if the result is printed as JSON, at the end only.
        json: bool,
    },
    /// A caller of the daemon, who receives events if there is a channel.
    Remote(Option<mpsc::Sender<CallEvent>>),
}

impl LiveCaller {
    /// Returns where the output of an intent goes while it is written; `None` if the caller reads it in the result only.
    pub(super) fn output(&self, valid: &ValidIntent<'_>) -> Option<Output> {
        if !self.is_live(valid) {
            return None;
        }
        match self {
            Self::CommandLine { .. } => Some(writer::start()),
            Self::Remote(events) => events.clone().map(forward),
        }
    }

    /// Returns true if the caller uses the terminal and the standard input of agentd.
    pub(super) fn is_here(&self) -> bool {
        matches!(self, Self::CommandLine { .. })
    }

    /// Returns true if the caller gets the output of an intent while it is written.
    pub(super) fn is_live(&self, valid: &ValidIntent<'_>) -> bool {
        // Output that is a JSON result is returned only if it matches its schema.
        let is_text = valid.capability.result.is_none() && !matches!(valid.operation, Operation::Tool(_));
        is_text
            && match self {
                Self::CommandLine { json } => !json,
                Self::Remote(events) => events.is_some(),
            }
    }

    /// Returns a function that passes a line to the caller at once.
    pub(super) fn notify(&self) -> Box<dyn Fn(String) + Send + Sync> {
        match self {
            Self::CommandLine { .. } => Box::new(|line| writer::message(format_args!("{line}"))),
            Self::Remote(Some(events)) => {
                let events = events.clone();
                Box::new(move |line| {
                    // A caller that does not read its events misses this one.
                    events.try_send(CallEvent::Notice(line)).or_unreceived("notice");
                })
            }
            Self::Remote(None) => Box::new(|_| ()),
        }
    }
}

/// Returns an output whose pieces become events. When the caller has gone, the rest is only kept for the result.
fn forward(events: mpsc::Sender<CallEvent>) -> Output {
    let (sender, mut pieces) = mpsc::channel(PIECES);
    let (reply, written) = oneshot::channel();
    tokio::spawn(async move {
        let mut events = Some(events);
        while let Some(piece) = pieces.recv().await {
            let event = match piece {
                OutputPiece::Out(bytes) => CallEvent::Stdout(bytes.into()),
                OutputPiece::Err(bytes) => CallEvent::Stderr(bytes.into()),
            };
            if let Some(open) = &events
                && open.send(event).await.is_err()
            {
                events = None;
            }
        }
        // Sending fails if nothing waits for the end of the output any longer.
        reply.send(Ok(())).or_unreceived("end of the output");
    });
    (sender, written, Arc::default())
}
