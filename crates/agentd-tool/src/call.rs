//! Runs an operation in a sandbox, from outside.

use crate::{
    error::ToolError,
    request::ToolCall,
    response::ToolResponse,
    wire::{self, MAX_FRAME, ToolReply, WireError},
};
use agentd_core::{Command, EndReason, IsolationError, Limits, Outcome, Sandbox, StdinSource, Usage};
use std::{ffi::OsString, path::PathBuf};

/// The settings of the process that carries out an operation.
#[derive(Debug, Clone, Default)]
pub struct CallOptions {
    /// The working directory, to which relative paths refer; `/` when absent.
    pub cwd: Option<PathBuf>,
    /// The environment of the process: the placeholders of secrets, and the variables for the network of the sandbox
    /// ([`Sandbox::network_environment`]).
    pub env: Vec<(OsString, OsString)>,
    /// The limits of the process, in addition to those of the sandbox.
    pub limits: Limits,
}

/// The output of an operation.
#[derive(Debug, Clone, PartialEq)]
pub struct CallOutput {
    /// The result.
    pub response: ToolResponse,
    /// The content that follows the result.
    pub content: Vec<u8>,
    /// The resources that the process used.
    pub usage: Usage,
}

/// The reason for which an operation returned no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The operation failed, after its process had used these resources. Paths and texts in the error come from the sandbox.
    #[error("{0}")]
    Tool(#[source] Box<ToolError>, Usage),
    /// The request cannot be encoded.
    #[error("encode the request: {0} — send less content")]
    Request(#[source] WireError),
    /// The process could not be run.
    #[error(transparent)]
    Isolation(#[from] IsolationError),
    /// The process ended without a response. A write may have taken place in part.
    #[error(
        "the process of the operation ended without a response ({reason}): {message} — check what was changed, then try again"
    )]
    Ended {
        /// The reason for the end of the process, such as a limit.
        reason: EndReason,
        /// What the process wrote to standard error. Untrusted text from the sandbox, in which control characters are escaped.
        message: String,
    },
    /// The process, or another process of the sandbox in its place, sent a malformed response.
    #[error("decode the response of the operation: {0} — another process of the sandbox may have tampered with it")]
    Response(#[source] WireError),
}

/// Carries out an operation in `sandbox`. The response comes from the sandbox and is untrusted: other processes in the sandbox
/// may have changed it.
///
/// # Errors
/// A [`CallError`].
pub async fn call(sandbox: &dyn Sandbox, call: &ToolCall, content: &[u8], options: CallOptions) -> Result<CallOutput, CallError> {
    let frame = wire::encode_call(call, content).map_err(CallError::Request)?;
    let command = Command {
        cwd: options.cwd,
        env: options.env,
        stdin: StdinSource::Bytes(frame),
        limits: options.limits,
        // Output up to this length is kept without a gap.
        capture: MAX_FRAME,
        ..Command::default()
    };
    decode(&sandbox.exec_tool(command).await?)
}

fn decode(outcome: &Outcome) -> Result<CallOutput, CallError> {
    let message = || outcome.stderr.to_bytes().escape_ascii().to_string().chars().take(1000).collect::<String>();
    if outcome.reason != EndReason::Exited || outcome.exit_code != Some(0) {
        return Err(CallError::Ended { reason: outcome.reason, message: message() });
    }
    if outcome.stdout.omitted > 0 {
        let too_long = WireError::TooLong { length: outcome.stdout.total(), limit: MAX_FRAME };
        return Err(CallError::Response(too_long));
    }
    match wire::decode_reply(&outcome.stdout.head).map_err(CallError::Response)? {
        (ToolReply::Done(response), content) => Ok(CallOutput { response, content, usage: outcome.usage }),
        (ToolReply::Failed(error), _) => Err(CallError::Tool(Box::new(error), outcome.usage)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentd_core::Captured;

    fn outcome(reason: EndReason, exit_code: Option<i32>, stdout: &[u8]) -> Outcome {
        let stderr = Captured { head: b"no\x1b[2J\n".to_vec(), ..Captured::default() };
        let stdout = Captured { head: stdout.to_vec(), ..Captured::default() };
        Outcome { reason, exit_code, signal: None, usage: Usage::default(), stdout, stderr }
    }

    #[test]
    fn process_without_response_is_an_error_with_escaped_message() {
        for (reason, code) in [(EndReason::WallDeadline, None), (EndReason::Exited, Some(125)), (EndReason::OutOfMemory, Some(0))]
        {
            let error = decode(&outcome(reason, code, b"")).unwrap_err();
            assert!(matches!(&error, CallError::Ended { reason: r, message } if *r == reason && message == r"no\x1b[2J\n"));
        }
    }

    #[test]
    fn forged_or_omitted_response_is_refused() {
        let mut omitted = outcome(EndReason::Exited, Some(0), b"");
        omitted.stdout.omitted = 1;
        for outcome in [omitted, outcome(EndReason::Exited, Some(0), b"agtool"), outcome(EndReason::Exited, Some(0), b"{}")] {
            assert!(matches!(decode(&outcome), Err(CallError::Response(_))));
        }
    }
}
