//! What caller and execution exchange while an intent is executed.

use agentd_core::PtySize;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// An event before the end of an intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallEvent {
    /// The intent waits for an approval.
    Held {
        /// The identifier of the intent, by which users approve it.
        intent: String,
        /// When the intent ends without a decision (RFC 3339).
        expires: String,
    },
    /// The intent is executed.
    Begun {
        /// The identifier of the intent.
        intent: String,
    },
    /// The command wrote to its standard output, or to its terminal.
    Stdout(Bytes),
    /// The command wrote to its standard error.
    Stderr(Bytes),
    /// A message about the run that needs attention now, such as a connection that waits for an approval.
    Notice(String),
}

/// An input of the caller for a command that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallInput {
    /// Bytes for standard input.
    Stdin(Bytes),
    /// The end of standard input.
    EndOfStdin,
    /// The new size of the terminal.
    Resize(PtySize),
    /// A signal for the process group of the command (`signal(7)`).
    Signal(i32),
}

/// The connection of a caller with the execution of one intent.
#[derive(Debug)]
pub struct CallStreams {
    /// Receives events. The channel is bounded, so a caller that does not read delays the command.
    pub events: Option<mpsc::Sender<CallEvent>>,
    /// The inputs. Without a channel, the standard input is what the parameters contain.
    pub input: Option<mpsc::Receiver<CallInput>>,
    /// Ends the intent when it is cancelled: the caller has gone, or has asked for it.
    pub cancel: CancellationToken,
}
