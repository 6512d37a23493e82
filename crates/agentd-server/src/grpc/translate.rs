//! Turns the messages of clients into what all transports share.

use super::failure::invalid;
use crate::{
    call::CallInput,
    request::{ExecuteRequest, NetworkRequest, RequestedLimits, WorkspaceRequest},
};
use agentd_core::{Profile, PtySize};
use agentd_engine::parse_parameters;
use agentd_proto::v1::{self, execute_stream_request::Message};
use agentd_state::IdempotencyKey;
use tonic::Status;

/// The greatest number of a signal (`signal(7)`).
const MAX_SIGNAL: i32 = 64;

/// Returns the request of a message, and its idempotency key.
///
/// # Errors
/// A status that names the field at fault.
pub(super) fn request(message: v1::ExecuteRequest) -> Result<(ExecuteRequest, Option<IdempotencyKey>), Status> {
    let key = key(message.idempotency_key)?;
    let parameters = match message.parameters_json.as_str() {
        "" => Default::default(),
        text => parse_parameters(text.as_bytes()).map_err(|error| invalid("parameters_json", error.to_string()))?,
    };
    let request = ExecuteRequest {
        capability: message.capability,
        parameters,
        workspace: message.workspace.map(|v1::Workspace { path, read_only }| WorkspaceRequest { path, read_only }),
        sandbox: message.sandbox,
        profile: profile(message.profile)?,
        limits: message.limits.map(limits).unwrap_or_default(),
        network: message.network.map(|v1::Network { allow }| NetworkRequest { allow }),
        backend: message.backend,
    };
    Ok((request, key))
}

/// Returns an idempotency key.
///
/// # Errors
/// A status that names the field.
pub(super) fn key(text: Option<String>) -> Result<Option<IdempotencyKey>, Status> {
    let key = text.map(|key| key.parse()).transpose();
    key.map_err(|error| invalid("idempotency_key", format!("idempotency_key: {error}")))
}

/// Returns a profile.
///
/// # Errors
/// A status that names the field.
pub(super) fn profile(number: i32) -> Result<Option<Profile>, Status> {
    match v1::Profile::try_from(number) {
        Ok(v1::Profile::Unspecified) => Ok(None),
        Ok(v1::Profile::Strict) => Ok(Some(Profile::Strict)),
        Ok(v1::Profile::Default) => Ok(Some(Profile::Default)),
        Ok(v1::Profile::Permissive) => Ok(Some(Profile::Permissive)),
        // To ignore the number could weaken the sandbox.
        Err(_) => Err(invalid("profile", format!("profile: {number} is unknown — use a value of agentd.v1.Profile"))),
    }
}

/// Returns limits.
pub(super) fn limits(limits: v1::Limits) -> RequestedLimits {
    RequestedLimits {
        wall_ms: limits.wall_ms,
        cpu_time_ms: limits.cpu_time_ms,
        memory_bytes: limits.memory_bytes,
        processes: limits.processes,
        open_files: limits.open_files,
        file_size_bytes: limits.file_size_bytes,
        output_bytes: limits.output_bytes,
        cpu_milli: limits.cpu_milli,
    }
}

/// What a later message of the client of a stream asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StreamInput {
    /// An input for the command.
    Input(CallInput),
    /// The end of the intent.
    Cancel,
}

/// Returns what a later message of the client of a stream asks for.
///
/// # Errors
/// A status that names the field at fault.
pub(super) fn input(message: v1::ExecuteStreamRequest) -> Result<StreamInput, Status> {
    let input = match message.message {
        Some(Message::Stdin(bytes)) => CallInput::Stdin(bytes),
        Some(Message::EndOfStdin(_)) => CallInput::EndOfStdin,
        Some(Message::Resize(size)) => CallInput::Resize(pty_size(size)?),
        Some(Message::Signal(signal)) if (1..=MAX_SIGNAL).contains(&signal) => CallInput::Signal(signal),
        Some(Message::Signal(signal)) => {
            return Err(invalid("signal", format!("signal: {signal} is no signal — send a number from 1 to {MAX_SIGNAL}")));
        }
        Some(Message::Cancel(_)) => return Ok(StreamInput::Cancel),
        Some(Message::Execute(_)) => {
            return Err(invalid("execute", "execute: a second request — send each request in a call of its own".to_owned()));
        }
        None => {
            return Err(invalid("message", "message: no content that this version knows — send one of its fields".to_owned()));
        }
    };
    Ok(StreamInput::Input(input))
}

fn pty_size(v1::TerminalSize { rows, columns }: v1::TerminalSize) -> Result<PtySize, Status> {
    let number = |count: u32| u16::try_from(count).ok().filter(|count| *count > 0);
    match (number(rows), number(columns)) {
        (Some(rows), Some(cols)) => Ok(PtySize { rows, cols }),
        _ => Err(invalid("resize", format!("resize: {rows} × {columns} — both must be from 1 to 65535"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn later(message: Message) -> Result<StreamInput, Code> {
        input(v1::ExecuteStreamRequest { message: Some(message) }).map_err(|status| status.code())
    }

    #[test]
    fn numbers_of_parameters_beyond_doubles_are_exact() {
        let parameters_json = r#"{"a":9007199254740993}"#.to_owned();
        let (request, _) = request(v1::ExecuteRequest { parameters_json, ..Default::default() }).unwrap();
        assert_eq!(request.parameters["a"].as_u64(), Some(9_007_199_254_740_993));
    }

    #[test]
    fn ambiguous_and_malformed_requests_are_refused() {
        let refused = |message| request(message).unwrap_err().code();
        for text in [r#"{"a":1,"a":2}"#, "[]", "{", "null"] {
            let message = v1::ExecuteRequest { parameters_json: text.to_owned(), ..Default::default() };
            assert_eq!(refused(message), Code::InvalidArgument, "{text}");
        }
        assert_eq!(refused(v1::ExecuteRequest { profile: 4, ..Default::default() }), Code::InvalidArgument);
        assert_eq!(refused(v1::ExecuteRequest { profile: -1, ..Default::default() }), Code::InvalidArgument);
        let key = Some(String::new());
        assert_eq!(refused(v1::ExecuteRequest { idempotency_key: key, ..Default::default() }), Code::InvalidArgument);
    }

    #[test]
    fn later_messages_are_bounded() {
        let size = |rows, columns| later(Message::Resize(v1::TerminalSize { rows, columns }));
        assert_eq!(size(24, 80), Ok(StreamInput::Input(CallInput::Resize(PtySize { rows: 24, cols: 80 }))));
        for (rows, columns) in [(0, 80), (24, 0), (65_536, 80), (24, u32::MAX)] {
            assert_eq!(size(rows, columns), Err(Code::InvalidArgument));
        }
        for signal in [0, -1, 65, i32::MIN] {
            assert_eq!(later(Message::Signal(signal)), Err(Code::InvalidArgument));
        }
        assert_eq!(later(Message::Execute(v1::ExecuteRequest::default())), Err(Code::InvalidArgument));
        assert_eq!(input(v1::ExecuteStreamRequest { message: None }).unwrap_err().code(), Code::InvalidArgument);
    }
}
