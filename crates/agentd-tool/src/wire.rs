//! The format of requests and responses between the library and the process in the sandbox.
//!
//! A frame is 8 bytes (`agtool` and [`VERSION`] as a little-endian `u16`), the length of the JSON as a little-endian `u32`, the
//! length of the content as a little-endian `u64`, the JSON, and the content. One frame is sent each way. The reply is untrusted:
//! other processes of the sandbox can influence the process that sends it.

use crate::{
    error::ToolError,
    limits::{MAX_CONTENT, MAX_HEAD},
    request::ToolCall,
    response::ToolResponse,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{self, Read, Write};

/// The version of the format. It changes whenever a message changes.
pub const VERSION: u16 = 2;

const MAGIC: &[u8; 6] = b"agtool";

/// Length of a frame's head, in bytes.
const HEAD: usize = 20;

/// Maximum length of a frame, in bytes.
pub const MAX_FRAME: u64 = HEAD as u64 + MAX_HEAD as u64 + MAX_CONTENT;

/// The reply to a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolReply {
    /// The operation was carried out.
    Done(ToolResponse),
    /// The operation failed.
    Failed(ToolError),
}

/// Reasons to reject a frame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The stream could not be read or written, or ended early.
    #[error("transfer a message of the tool: {0}")]
    Io(#[from] io::Error),
    /// The frame begins with other bytes, or has another version.
    #[error("message of the tool begins with {0:?} instead of version {VERSION}")]
    Version([u8; 8]),
    /// A length is over its limit.
    #[error("message of the tool has {length} bytes, over the limit of {limit}")]
    TooLong {
        /// The length, in bytes.
        length: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The JSON is not a valid message.
    #[error("malformed message of the tool: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Bytes follow the frame.
    #[error("{0} bytes follow the message of the tool")]
    Rest(usize),
}

/// Encodes a call with its content.
///
/// # Errors
/// [`WireError::TooLong`].
pub fn encode_call(call: &ToolCall, content: &[u8]) -> Result<Vec<u8>, WireError> {
    let mut frame = Vec::new();
    write(&mut frame, call, content)?;
    Ok(frame)
}

/// Reads a call. Returns it with the length of its content, which follows in `stream`.
///
/// # Errors
/// A [`WireError`].
pub fn read_call(stream: &mut impl Read) -> Result<(ToolCall, u64), WireError> {
    read(stream)
}

/// Writes a reply with its content.
///
/// # Errors
/// [`WireError::TooLong`], [`WireError::Io`].
pub fn write_reply(stream: &mut impl Write, reply: &ToolReply, content: &[u8]) -> Result<(), WireError> {
    write(stream, reply, content)
}

/// Decodes a whole reply. Returns it with its content.
///
/// # Errors
/// A [`WireError`], for example if bytes follow the reply.
pub fn decode_reply(mut bytes: &[u8]) -> Result<(ToolReply, Vec<u8>), WireError> {
    let (reply, length) = read(&mut bytes)?;
    let content = usize::try_from(length).ok().and_then(|length| bytes.split_at_checked(length));
    match content {
        Some((content, [])) => Ok((reply, content.to_vec())),
        Some((_, rest)) => Err(WireError::Rest(rest.len())),
        None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
    }
}

fn write(stream: &mut impl Write, message: &impl Serialize, content: &[u8]) -> Result<(), WireError> {
    let json = serde_json::to_vec(message)?;
    let too_long = |length: usize, limit: u64| WireError::TooLong { length: length as u64, limit };
    let head = u32::try_from(json.len()).ok().filter(|length| *length <= MAX_HEAD);
    let head = head.ok_or_else(|| too_long(json.len(), MAX_HEAD.into()))?;
    if content.len() as u64 > MAX_CONTENT {
        return Err(too_long(content.len(), MAX_CONTENT));
    }
    stream.write_all(MAGIC)?;
    stream.write_all(&VERSION.to_le_bytes())?;
    stream.write_all(&head.to_le_bytes())?;
    stream.write_all(&(content.len() as u64).to_le_bytes())?;
    stream.write_all(&json)?;
    stream.write_all(content)?;
    Ok(stream.flush()?)
}

fn read<M: DeserializeOwned>(stream: &mut impl Read) -> Result<(M, u64), WireError> {
    let (mut begin, mut head, mut content) = ([0; 8], [0; 4], [0; 8]);
    stream.read_exact(&mut begin)?;
    if begin[..6] != MAGIC[..] || begin[6..] != VERSION.to_le_bytes() {
        return Err(WireError::Version(begin));
    }
    stream.read_exact(&mut head)?;
    stream.read_exact(&mut content)?;
    let (head, content) = (u32::from_le_bytes(head), u64::from_le_bytes(content));
    for (length, limit) in [(head.into(), MAX_HEAD.into()), (content, MAX_CONTENT)] {
        if length > limit {
            return Err(WireError::TooLong { length, limit });
        }
    }
    // The memory grows with the bytes that arrive, and not with the length that the head states.
    let mut json = Vec::new();
    stream.take(head.into()).read_to_end(&mut json)?;
    if json.len() as u64 != u64::from(head) {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok((serde_json::from_slice(&json)?, content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::ErrorCode,
        request::{ReadRequest, ToolRequest},
    };
    use proptest::prelude::*;

    fn call() -> ToolCall {
        let read = ReadRequest { path: (&b"/a\xff\n"[..]).into(), ..ReadRequest::default() };
        ToolCall { within: Some("/".into()), request: ToolRequest::Read(read) }
    }

    #[test]
    fn call_and_reply_are_decoded_as_they_were_encoded() {
        let frame = encode_call(&call(), b"content").unwrap();
        let mut stream = &frame[..];
        assert_eq!(read_call(&mut stream).unwrap(), (call(), 7));
        assert_eq!(stream, b"content");
        let reply = ToolReply::Failed(ToolError::at(ErrorCode::NotFound, "read", b"/a\xff", "no"));
        let mut frame = Vec::new();
        write_reply(&mut frame, &reply, b"\0\xff").unwrap();
        assert_eq!(decode_reply(&frame).unwrap(), (reply, b"\0\xff".to_vec()));
        for end in 0..frame.len() {
            assert!(decode_reply(&frame[..end]).is_err(), "{end}");
        }
        frame.push(0);
        assert!(matches!(decode_reply(&frame), Err(WireError::Rest(1))));
    }

    #[test]
    fn length_over_its_limit_is_refused_before_the_json_arrives() {
        let head =
            |json: u32, content: u64| [&MAGIC[..], &VERSION.to_le_bytes(), &json.to_le_bytes(), &content.to_le_bytes()].concat();
        for frame in [head(MAX_HEAD + 1, 0), head(1, MAX_CONTENT + 1), head(u32::MAX, u64::MAX)] {
            assert!(matches!(read_call(&mut &frame[..]), Err(WireError::TooLong { .. })));
        }
        let other = [b"agtool\xff\xff".as_slice(), &[0; 12]].concat();
        assert!(matches!(read_call(&mut &other[..]), Err(WireError::Version(_))));
    }

    #[test]
    fn unknown_field_or_operation_is_refused() {
        for json in [
            r#"{"request":{"read":{"path":"/a","x":1}}}"#,
            r#"{"request":{"read":{"path":"/a"}},"x":1}"#,
            r#"{"request":{"read":{"path":"/a"},"stat":{"path":"/a"}}}"#,
            r#"{"request":{"shell":{"path":"/a"}}}"#,
            r#"{"request":{"read":{}}}"#,
            r#"{"request":{"read":{"path":"/a","range":{"bytes":{"offset":0,"x":1}}}}}"#,
            r#"{"request":{"read":{"path":"/a","range":{"bytes":{"offset":-1}}}}}"#,
            r#"{"request":{"edit":{"path":"/a","edits":[{"literal":{"old":"a","new":"b","regex":true}}]}}}"#,
        ] {
            assert!(serde_json::from_str::<ToolCall>(json).is_err(), "{json}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_do_not_panic_decoder(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let framed = |json: &[u8]| {
                let length = u32::try_from(json.len()).unwrap();
                [&MAGIC[..], &VERSION.to_le_bytes(), &length.to_le_bytes(), &[0; 8], json].concat()
            };
            read_call(&mut &bytes[..]).ok();
            read_call(&mut &framed(&bytes)[..]).ok();
            decode_reply(&framed(&bytes)).ok();
        }
    }
}
