//! The process in the sandbox: reads one call from standard input, carries it out, and writes one reply to standard output.

use crate::{
    archive, edit,
    error::{ErrorCode, ToolError},
    fetch, git_clone, list, read, relocate,
    request::{ToolCall, ToolRequest},
    resolve::Resolver,
    response::ToolResponse,
    search, sqlite, stat, watch, wire,
    wire::ToolReply,
    write,
};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use std::io::{self, Read, Write};

/// The exit code if no reply was sent. All failures of agentd itself have this code.
const FAILED: i32 = 125;

/// Runs the process, and returns its exit code. The code is 0 if a reply was sent, even if the operation failed.
pub fn main() -> i32 {
    // Other processes of the sandbox then cannot read or change the memory of this one (`man 2 ptrace`). If the kernel refuses,
    // the reply is untrusted in any case.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    match serve(&mut io::stdin().lock(), &mut io::stdout().lock()) {
        Ok(()) => 0,
        Err(error) => {
            // If standard error is closed, nobody reads the message.
            let _ = writeln!(io::stderr(), "agentd: {error}");
            FAILED
        }
    }
}

/// Serves one call.
///
/// # Errors
/// If the call cannot be read, or the reply cannot be written.
pub(crate) fn serve(input: &mut dyn Read, output: &mut dyn Write) -> Result<(), wire::WireError> {
    let mut input = input;
    let (call, length) = wire::read_call(&mut input)?;
    let (reply, content) = match run(&call, input, length) {
        Ok((response, content)) => (ToolReply::Done(response), content),
        Err(error) => (ToolReply::Failed(error), Vec::new()),
    };
    let mut output = output;
    match wire::write_reply(&mut output, &reply, &content) {
        // Nothing was written yet.
        Err(error @ wire::WireError::TooLong { .. }) => {
            let error = ToolError::new(ErrorCode::Limit, format!("{error} — request less"));
            wire::write_reply(&mut output, &ToolReply::Failed(error), &[])
        }
        written => written,
    }
}

/// Carries out a call whose content has `length` bytes. Returns the response and its content.
fn run(call: &ToolCall, content: &mut dyn Read, length: u64) -> Result<(ToolResponse, Vec<u8>), ToolError> {
    let resolver = Resolver::new(call)?;
    if length > 0 && !matches!(call.request, ToolRequest::Write(_) | ToolRequest::Fetch(_)) {
        return Err(ToolError::new(ErrorCode::Invalid, "content follows a request that has none — send the request alone"));
    }
    let response = match &call.request {
        ToolRequest::Read(request) => {
            return read::read(&resolver, request).map(|(result, content)| (ToolResponse::Read(result), content));
        }
        ToolRequest::Edit(request) => {
            return edit::edit(&resolver, request).map(|(result, diff)| (ToolResponse::Edit(result), diff));
        }
        ToolRequest::Fetch(request) => {
            let mut body = Vec::new();
            content.take(length).read_to_end(&mut body).map_err(|error| body_error(&error.to_string()))?;
            if body.len() as u64 != length {
                return Err(body_error("the body is shorter than announced"));
            }
            return fetch::fetch(request, body).map(|(result, content)| (ToolResponse::Fetch(result), content));
        }
        ToolRequest::Write(request) => ToolResponse::Write(write::write(&resolver, request, content, length)?),
        ToolRequest::List(request) => ToolResponse::List(list::list(&resolver, request)?),
        ToolRequest::Search(request) => ToolResponse::Search(search::search(&resolver, request)?),
        ToolRequest::Stat(request) => ToolResponse::Stat(stat::stat(&resolver, request)?),
        ToolRequest::Remove(request) => ToolResponse::Remove(relocate::remove(&resolver, request)?),
        ToolRequest::Move(request) => ToolResponse::Move(relocate::relocate(&resolver, request)?),
        ToolRequest::Archive(request) => ToolResponse::Archive(archive::archive(&resolver, request)?),
        ToolRequest::Sqlite(request) => ToolResponse::Sqlite(sqlite::query(&resolver, request)?),
        ToolRequest::Watch(request) => ToolResponse::Watch(watch::watch(&resolver, request)?),
        ToolRequest::Clone(request) => ToolResponse::Clone(git_clone::clone(&resolver, request)?),
    };
    Ok((response, Vec::new()))
}

fn body_error(why: &str) -> ToolError {
    ToolError::new(ErrorCode::System, format!("read the body of the request: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        request::{ReadRequest, StatRequest, WriteRequest},
        wire::{decode_reply, encode_call},
    };

    fn reply(call: &ToolCall, content: &[u8]) -> (ToolReply, Vec<u8>) {
        let mut output = Vec::new();
        serve(&mut &encode_call(call, content).unwrap()[..], &mut output).unwrap();
        decode_reply(&output).unwrap()
    }

    #[test]
    fn written_content_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let call = |request| ToolCall { within: Some(directory.path().into()), request };
        let write = WriteRequest { path: "file".into(), ..WriteRequest::default() };
        assert!(matches!(reply(&call(ToolRequest::Write(write)), b"\0\xff"), (ToolReply::Done(ToolResponse::Write(_)), _)));
        let read = ReadRequest { path: "file".into(), ..ReadRequest::default() };
        let (done, content) = reply(&call(ToolRequest::Read(read)), b"");
        assert!(matches!(done, ToolReply::Done(ToolResponse::Read(result)) if result.length == 2));
        assert_eq!(content, b"\0\xff");
    }

    #[test]
    fn failure_is_a_reply_with_a_code() {
        let stat = |path: &str| ToolRequest::Stat(StatRequest { path: path.into(), follow: true });
        let code = |call: &ToolCall, content: &[u8]| match reply(call, content) {
            (ToolReply::Failed(error), _) => error.code,
            (done, _) => panic!("{done:?}"),
        };
        assert_eq!(code(&ToolCall { within: None, request: stat("/missing-file") }, b""), ErrorCode::NotFound);
        assert_eq!(code(&ToolCall { within: Some("/proc".into()), request: stat("/etc") }, b""), ErrorCode::Outside);
        assert_eq!(code(&ToolCall { within: Some("/missing-file".into()), request: stat("x") }, b""), ErrorCode::NotFound);
        assert_eq!(code(&ToolCall { within: None, request: stat("/") }, b"content"), ErrorCode::Invalid);
        assert!(serve(&mut &b"garbage"[..], &mut Vec::new()).is_err());
    }
}
