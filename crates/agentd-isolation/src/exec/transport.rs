//! The interface between the state machine of an exec and the peer that runs the command: a supervisor on this kernel, or the
//! agent in a virtual machine.

use agentd_core::{EndReason, IsolationError, PtySize, Usage};
use serde::{Deserialize, Serialize};
use std::{future::Future, pin::Pin};

/// A timer: a future that completes at a point in time. Each phase of an exec owns its timer, so that other events never restart
/// it.
pub type Timer = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A constructor of [`IsolationError`] for the lost part of a sandbox; takes the reason.
pub type LossError = fn(String) -> IsolationError;

/// A watch on the counters of a sandbox. Completes with the reason for the exceeded limit, or never.
pub type LimitWatch = Pin<Box<dyn Future<Output = EndReason> + Send>>;

/// How an exec ended: an [`agentd_core::Outcome`] without captured output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The reason, as far as the peer can determine it.
    pub reason: EndReason,
    /// Exit code of the first process, if it exited.
    pub exit_code: Option<i32>,
    /// Signal that ended the first process, if one did.
    pub signal: Option<i32>,
    /// Resources that the exec used.
    pub usage: Usage,
}

/// An event of an exec, as reported by the peer.
#[derive(Debug)]
pub enum Event {
    /// The whole process tree of the command has ended.
    Ended(End),
    /// The command was not started.
    NotStarted(IsolationError),
    /// The peer broke the protocol. The command may still run.
    Misplaced(IsolationError),
    /// The connection to the peer is lost, and the command with it.
    Lost {
        /// The cause of the loss.
        error: IsolationError,
        /// The limit for which the kernel ended the sandbox, if the counters show one.
        reason: Option<EndReason>,
        /// Resources that the sandbox used, as far as they are known.
        usage: Usage,
    },
}

/// A connection to the peer that runs one command.
pub trait Transport: Send + 'static {
    /// Standard input of a captured exec.
    type Input: Input;
    /// Standard output or standard error of a captured exec.
    type Output: Output;
    /// The control that an [`agentd_core::ExecHandle`] uses while the state machine owns the transport.
    type ExecControl: ExecControl;

    /// Creates the control of this exec. Called at most once.
    fn control(&mut self) -> Self::ExecControl;

    /// Waits for the next event. Cancel safe.
    fn event(&mut self) -> impl Future<Output = Event> + Send;

    /// Asks the command to exit by itself, at its deadline. Does nothing for a peer that enforces the deadline and the grace
    /// period itself.
    fn terminate(&self);

    /// Kills the process tree of the command. If the request cannot be sent, kills the sandbox.
    fn end(&self, reason: EndReason);

    /// Kills the sandbox. Called when the peer did not end the command in time.
    fn kill(&self);

    /// Starts the timer within which the peer must end a command. Time in which the sandbox cannot run does not count.
    fn max_wait(&self) -> Timer;

    /// Watches the limits that only the counters of the sandbox show.
    fn limits(&self) -> LimitWatch;

    /// Completes the exec after its end, before its outcome is reported. Not called for a lost sandbox. Cancelled by a request to
    /// end the exec and by its deadline.
    ///
    /// # Errors
    /// The error of that completion, for example a failure to pull changed files out of a virtual machine.
    fn conclude(&self) -> impl Future<Output = Result<(), IsolationError>> + Send;
}

/// The part of a transport that an exec's handle uses.
pub trait ExecControl: Send + Sync + 'static {
    /// Sends a signal to the command's process group.
    ///
    /// # Errors
    /// The loss of the sandbox, or a full queue of requests.
    fn signal(&self, signal: i32) -> Result<(), IsolationError>;

    /// Sets the size of the command's terminal. Called only for a command with a terminal.
    ///
    /// # Errors
    /// [`IsolationError::Io`] if the size cannot be set, or the loss of the sandbox.
    fn resize(&self, size: PtySize) -> Result<(), IsolationError>;
}

/// The standard input of a command. Dropping it closes the stream.
pub trait Input: Send {
    /// Writes `bytes` until the command stops reading. A command that does not read its input is not an error.
    fn write_all(&mut self, bytes: &[u8]) -> impl Future<Output = ()> + Send;
}

/// An output stream of a command.
pub trait Output: Send {
    /// Waits for bytes, which replace the content of `buffer`. Returns false at the end of the stream. Cancel safe.
    fn read(&mut self, buffer: &mut Vec<u8>) -> impl Future<Output = bool> + Send;

    /// Returns the number of bytes that have already arrived.
    fn arrived(&self) -> usize;

    /// Reads bytes that have already arrived, which replace the content of `buffer`. Returns false if there are none.
    fn read_now(&mut self, buffer: &mut Vec<u8>) -> bool;
}

/// The streams of a captured exec.
pub struct Pipes<T: Transport> {
    /// Standard input, if the command has one.
    pub input: Option<T::Input>,
    /// Standard output and standard error.
    pub outputs: [Option<T::Output>; 2],
}
