//! Frames on a carrier: a little-endian `u32` length, and that many bytes of a postcard-encoded [`Frame`]. Before the first one each side
//! says in a [`greeting`] which version of them it speaks.
//!
//! What comes from a guest is untrusted: [`decode`] is bounded by the frame and never panics.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::borrow::Cow;

/// Changes whenever a frame or a message changes.
pub const VERSION: u16 = 3;

/// Bytes of a greeting.
pub const GREETING: usize = 8;

/// Bytes of a frame's head.
pub const HEAD: usize = 4;

/// The largest frame towards a guest: Linux limits argv and environment to about 2 MiB together (`execve(2)`).
pub const MAX_TO_GUEST: usize = 4 << 20;

/// The largest frame from a guest.
pub const MAX_FROM_GUEST: usize = 64 << 10;

/// The most bytes of a stream in one frame: other streams and messages wait no longer than for these.
pub const CHUNK: usize = 32 << 10;

/// Which stream of an exec or a file. The direction is in the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Which {
    /// To the guest: standard input, what is typed into a terminal, what is written to a file.
    Input,
    /// From the guest: standard output, a terminal, what is read from a file.
    Output,
    /// From the guest: standard error.
    Error,
}

/// A stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StreamId {
    /// The exec or file operation, as the host numbers them.
    pub of: u32,
    /// Which of its streams.
    pub which: Which,
}

/// What is on a carrier: messages, and the bytes of streams between them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(deserialize = "M: Deserialize<'de>"))]
pub enum Frame<'a, M> {
    /// A message.
    Message(M),
    /// Bytes of a stream, as far as its reader has given credit.
    Data {
        /// The stream.
        stream: StreamId,
        /// At least one, and at most [`CHUNK`].
        #[serde(borrow, with = "bytes")]
        bytes: Cow<'a, [u8]>,
    },
    /// The reader of a stream takes so many bytes more.
    Credit {
        /// The stream.
        stream: StreamId,
        /// How many.
        bytes: u32,
    },
    /// The writer of a stream has no more: the last frame of it in its direction.
    Eof {
        /// The stream.
        stream: StreamId,
    },
    /// The reader of a stream is gone.
    Close {
        /// The stream.
        stream: StreamId,
    },
}

/// Bytes as bytes: serde's own form of them is a list of numbers.
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

/// Why a carrier's bytes were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A frame's length is over the limit of its direction.
    #[error("frame of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// As stated by the frame.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// More streams are open than may be.
    #[error("more than {limit} streams at once")]
    TooMany {
        /// That many may be.
        limit: usize,
    },
    /// Its bytes are no frame.
    #[error("malformed frame: {0}")]
    Malformed(String),
    /// The other side is not an agent of agentd's.
    #[error("no greeting of agentd's")]
    Stranger,
    /// The other side is another agentd.
    #[error("it speaks version {0} of the protocol, and not {VERSION}: make the guest's image anew with this agentd")]
    Version(u16),
}

/// What each side says first.
pub fn greeting() -> [u8; GREETING] {
    let [low, high] = VERSION.to_le_bytes();
    [b'a', b'g', b'e', b'n', b't', b'd', low, high]
}

/// Checks what the other side said first.
pub fn check_greeting(said: [u8; GREETING]) -> Result<(), FrameError> {
    let [name @ .., low, high] = said;
    match (&name == b"agentd", u16::from_le_bytes([low, high])) {
        (false, _) => Err(FrameError::Stranger),
        (true, VERSION) => Ok(()),
        (true, other) => Err(FrameError::Version(other)),
    }
}

/// Appends to a vector.
struct Append<'a>(&'a mut Vec<u8>);

impl Extend<u8> for Append<'_> {
    fn extend<T: IntoIterator<Item = u8>>(&mut self, bytes: T) {
        self.0.extend(bytes);
    }
}

/// Appends a frame of at most `limit` bytes to `to`, which is unchanged by one that is refused.
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

/// Takes one frame from the head of `bytes`, and says how many it took; `None` while it is incomplete.
pub fn decode<M: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<Option<(Frame<'_, M>, usize)>, FrameError> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else { return Ok(None) };
    let length = usize::try_from(u32::from_le_bytes(*head)).unwrap_or(usize::MAX);
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let (frame, unused) = postcard::take_from_bytes(body).map_err(|e| FrameError::Malformed(e.to_string()))?;
    match &frame {
        _ if !unused.is_empty() => Err(FrameError::Malformed(format!("{} bytes too many", unused.len()))),
        Frame::Data { bytes, .. } if bytes.is_empty() || bytes.len() > CHUNK => {
            Err(FrameError::Malformed(format!("{} bytes of a stream", bytes.len())))
        }
        _ => Ok(Some((frame, HEAD + length))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream() -> impl Strategy<Value = StreamId> {
        let which = prop_oneof![Just(Which::Input), Just(Which::Output), Just(Which::Error)];
        (any::<u32>(), which).prop_map(|(of, which)| StreamId { of, which })
    }

    fn frame() -> impl Strategy<Value = Frame<'static, (u32, String)>> {
        prop_oneof![
            (any::<u32>(), ".{0,40}").prop_map(Frame::Message),
            (stream(), prop::collection::vec(any::<u8>(), 1..300))
                .prop_map(|(stream, bytes)| Frame::Data { stream, bytes: Cow::Owned(bytes) }),
            (stream(), any::<u32>()).prop_map(|(stream, bytes)| Frame::Credit { stream, bytes }),
            stream().prop_map(|stream| Frame::Eof { stream }),
            stream().prop_map(|stream| Frame::Close { stream }),
        ]
    }

    #[test]
    fn what_is_too_long_is_refused_and_leaves_nothing() {
        let stream = StreamId { of: 1, which: Which::Output };
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
    fn a_stranger_and_another_version_are_told_apart() {
        assert_eq!(check_greeting(greeting()), Ok(()));
        assert_eq!(check_greeting(*b"HTTP/1.1"), Err(FrameError::Stranger));
        assert_eq!(check_greeting(*b"agentd\xff\xff"), Err(FrameError::Version(u16::MAX)));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_and_every_part_of_it_is_incomplete(frame in frame(), rest in any::<[u8; 3]>()) {
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
