//! Frames on a transport: a little-endian `u32` length, followed by that many bytes of a postcard-encoded [`Frame`]. Before the
//! first frame, each side sends a [`greeting`] with its protocol version.
//!
//! Bytes from a guest are untrusted: [`decode`] reads no further than the frame and never panics.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::borrow::Cow;

/// The protocol version in the greeting. Must be increased whenever a frame or a message changes.
pub const VERSION: u16 = 7;

/// The length of a greeting, in bytes.
pub const GREETING: usize = 8;

/// The length of a frame's head, in bytes.
pub const HEAD: usize = 4;

/// The maximum size of a frame to a guest, in bytes. Linux limits argv and environment to about 2 MiB together (`execve(2)`).
pub const MAX_TO_GUEST: usize = 4 << 20;

/// The maximum size of a frame from a guest, in bytes.
pub const MAX_FROM_GUEST: usize = 64 << 10;

/// The maximum number of bytes of a stream in one frame, so that streams alternate in small units.
pub const CHUNK: usize = 32 << 10;

/// The kind of a stream of an exec, a file operation or a connection, which also determines its direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StreamKind {
    /// To the guest: standard input, input of a terminal, or content to write to a file.
    Input,
    /// From the guest: standard output, output of a terminal, or the content of a file.
    Output,
    /// From the guest: standard error.
    Error,
    /// From the guest: what a program sends over a connection to a granted host.
    Up,
    /// To the guest: what a program receives over such a connection.
    Down,
}

/// The name of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StreamId {
    /// The number of the exec or file operation, assigned by the host, or of the connection, assigned by the guest.
    pub operation: u32,
    /// The kind of stream.
    pub kind: StreamKind,
}

/// A unit on a transport: a message, or bytes and flow control of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(deserialize = "M: Deserialize<'de>"))]
pub enum Frame<'a, M> {
    /// A message.
    Message(M),
    /// Bytes of a stream, within the credit that its reader has granted.
    Data {
        /// The stream.
        stream: StreamId,
        /// At least one byte, and at most [`CHUNK`].
        #[serde(borrow, with = "bytes")]
        bytes: Cow<'a, [u8]>,
    },
    /// The reader of a stream grants credit for more bytes.
    Credit {
        /// The stream.
        stream: StreamId,
        /// The number of additional bytes.
        bytes: u32,
    },
    /// The writer of a stream has finished: its last frame in this direction.
    Eof {
        /// The stream.
        stream: StreamId,
    },
    /// The reader of a stream has closed its end.
    Close {
        /// The stream.
        stream: StreamId,
    },
    /// The writer of a stream has failed: its last frame in this direction. The stream is incomplete.
    Abort {
        /// The stream.
        stream: StreamId,
    },
}

/// Serializes bytes as a byte string. By default serde serializes them as a list of numbers.
mod bytes {
    use serde::{Deserializer, Serializer, de::Visitor};
    use std::{borrow::Cow, fmt};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'de, [u8]>, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = Cow<'de, [u8]>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(bytes))
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(Cow::Owned(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

/// The reason why a frame is refused, or is not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A frame is longer than the limit of its direction.
    #[error("frame of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// The length that the frame states, in bytes.
        length: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The other side does not read the messages that are queued for it.
    #[error("the queue of requests is full")]
    QueueFull,
    /// Too many streams are open.
    #[error("more than {limit} streams are open")]
    TooMany {
        /// The maximum number of open streams.
        limit: usize,
    },
    /// The bytes are not a valid frame.
    #[error("malformed frame: {0}")]
    Malformed(String),
    /// The other side is not an agentd agent.
    #[error("the peer sent no greeting of an agentd agent")]
    NoGreeting,
    /// The other side speaks another version of the protocol.
    #[error(
        "protocol version mismatch: peer {0}, this side {VERSION} — create the sandbox again; if that fails, report \
         this as a bug of agentd"
    )]
    Version(u16),
}

/// Returns the greeting, the first bytes that each side sends.
pub fn greeting() -> [u8; GREETING] {
    let [low, high] = VERSION.to_le_bytes();
    [b'a', b'g', b'e', b'n', b't', b'd', low, high]
}

/// Checks the greeting of the other side.
pub fn check_greeting(greeting: [u8; GREETING]) -> Result<(), FrameError> {
    let [name @ .., low, high] = greeting;
    match (&name == b"agentd", u16::from_le_bytes([low, high])) {
        (false, _) => Err(FrameError::NoGreeting),
        (true, VERSION) => Ok(()),
        (true, other) => Err(FrameError::Version(other)),
    }
}

/// Adapts a vector to [`Extend`], appending to it.
struct Append<'a>(&'a mut Vec<u8>);

impl Extend<u8> for Append<'_> {
    fn extend<T: IntoIterator<Item = u8>>(&mut self, bytes: T) {
        self.0.extend(bytes);
    }
}

/// Appends a frame of at most `limit` bytes to `to`. On an error `to` is unchanged.
pub fn encode<M: Serialize>(frame: &Frame<'_, M>, limit: usize, to: &mut Vec<u8>) -> Result<(), FrameError> {
    let start = to.len();
    to.extend_from_slice(&[0; HEAD]);
    let written = postcard::to_extend(frame, Append(to)).map(drop).map_err(|e| FrameError::Malformed(e.to_string()));
    let length = to.len() - start - HEAD;
    let checked = written.and_then(|()| match u32::try_from(length) {
        Ok(stated) if length <= limit => Ok(stated),
        _ => Err(FrameError::TooLong { length, limit }),
    });
    match checked {
        Ok(stated) => {
            to[start..start + HEAD].copy_from_slice(&stated.to_le_bytes());
            Ok(())
        }
        Err(error) => {
            to.truncate(start);
            Err(error)
        }
    }
}

/// Decodes the frame at the start of `bytes`, and returns it with the number of bytes that it took; `None` while the frame is
/// incomplete.
pub fn decode<M: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<Option<(Frame<'_, M>, usize)>, FrameError> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else { return Ok(None) };
    let length = usize::try_from(u32::from_le_bytes(*head)).unwrap_or(usize::MAX);
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let (frame, unused) = postcard::take_from_bytes(body).map_err(|e| FrameError::Malformed(e.to_string()))?;
    match &frame {
        _ if !unused.is_empty() => Err(FrameError::Malformed(format!("{} bytes after the frame", unused.len()))),
        Frame::Data { bytes, .. } if bytes.is_empty() || bytes.len() > CHUNK => {
            Err(FrameError::Malformed(format!("{} bytes in a data frame, not 1 to {CHUNK}", bytes.len())))
        }
        _ => Ok(Some((frame, HEAD + length))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream() -> impl Strategy<Value = StreamId> {
        let kind = prop::sample::select(vec![
            StreamKind::Input,
            StreamKind::Output,
            StreamKind::Error,
            StreamKind::Up,
            StreamKind::Down,
        ]);
        (any::<u32>(), kind).prop_map(|(operation, kind)| StreamId { operation, kind })
    }

    fn frame() -> impl Strategy<Value = Frame<'static, (u32, String)>> {
        prop_oneof![
            (any::<u32>(), ".{0,40}").prop_map(Frame::Message),
            (stream(), prop::collection::vec(any::<u8>(), 1..300))
                .prop_map(|(stream, bytes)| Frame::Data { stream, bytes: Cow::Owned(bytes) }),
            (stream(), any::<u32>()).prop_map(|(stream, bytes)| Frame::Credit { stream, bytes }),
            stream().prop_map(|stream| Frame::Eof { stream }),
            stream().prop_map(|stream| Frame::Abort { stream }),
            stream().prop_map(|stream| Frame::Close { stream }),
        ]
    }

    #[test]
    fn oversized_frame_is_refused_and_buffer_unchanged() {
        let stream = StreamId { operation: 1, kind: StreamKind::Output };
        let mut to = b"before".to_vec();
        let long: Frame<'_, ()> = Frame::Data { stream, bytes: Cow::Owned(vec![0; MAX_FROM_GUEST]) };
        assert!(matches!(encode(&long, MAX_FROM_GUEST, &mut to), Err(FrameError::TooLong { .. })));
        assert_eq!(to, b"before");
        let head = u32::try_from(MAX_FROM_GUEST + 1).unwrap().to_le_bytes();
        assert!(matches!(decode::<()>(&head, MAX_FROM_GUEST), Err(FrameError::TooLong { .. })));
        for count in [0, CHUNK + 1] {
            let odd: Frame<'_, ()> = Frame::Data { stream, bytes: Cow::Owned(vec![0; count]) };
            let mut to = Vec::new();
            encode(&odd, MAX_FROM_GUEST, &mut to).unwrap();
            assert!(matches!(decode::<()>(&to, MAX_FROM_GUEST), Err(FrameError::Malformed(_))));
        }
    }

    #[test]
    fn greeting_check_distinguishes_foreign_peer_from_other_version() {
        assert_eq!(check_greeting(greeting()), Ok(()));
        assert_eq!(check_greeting(*b"HTTP/1.1"), Err(FrameError::NoGreeting));
        assert_eq!(check_greeting(*b"agentd\xff\xff"), Err(FrameError::Version(u16::MAX)));
    }

    proptest! {
        #[test]
        fn encoded_frame_decodes_and_its_prefixes_are_incomplete(frame in frame(), rest in any::<[u8; 3]>()) {
            let mut bytes = Vec::new();
            encode(&frame, MAX_TO_GUEST, &mut bytes).unwrap();
            let length = bytes.len();
            for end in 0..length {
                prop_assert_eq!(decode::<(u32, String)>(&bytes[..end], MAX_TO_GUEST), Ok(None));
            }
            bytes.extend(rest);
            prop_assert_eq!(decode(&bytes, MAX_TO_GUEST), Ok(Some((frame, length))));
        }
    }
}
