//! Finds the end of a chunked body (RFC 9112, 7.1). Only the plainest form is accepted.
//!
//! Chunk extensions, trailers, and lines that end with a bare LF are refused. Servers disagree about where these end, so a
//! request that is hidden in them would not be checked. `httparse::parse_chunk_size` accepts them.

use super::head::HeadError;

/// The maximum number of hexadecimal digits of a size, so that a size is below 2^60 bytes.
const MAX_DIGITS: u8 = 15;

/// The position in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunks(ChunkState);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChunkState {
    /// The digits of a size.
    Size { digits: u8, size: u64 },
    /// The LF after a size.
    SizeEnd { size: u64 },
    /// Bytes of a chunk that are still to come.
    Data { left: u64 },
    /// The CR after a chunk, or after the last size.
    Return { last: bool },
    /// The LF after that CR.
    Feed { last: bool },
    /// The body is complete.
    Done,
}

impl Default for Chunks {
    fn default() -> Self {
        Self(ChunkState::Size { digits: 0, size: 0 })
    }
}

impl Chunks {
    /// Returns true if the body is complete.
    pub fn is_done(&self) -> bool {
        self.0 == ChunkState::Done
    }

    /// Returns the number of bytes of the current chunk that follow, and that may be forwarded without being examined.
    pub fn plain(&self) -> u64 {
        match self.0 {
            ChunkState::Data { left } => left,
            _ => 0,
        }
    }

    /// Skips bytes of a chunk, at most [`Self::plain`].
    pub fn skip(&mut self, bytes: u64) {
        if let ChunkState::Data { left } = self.0 {
            let left = left.saturating_sub(bytes);
            self.0 = if left == 0 { ChunkState::Return { last: false } } else { ChunkState::Data { left } };
        }
    }

    /// Skips `bytes` up to the end of the body, and returns the number of bytes that belong to the body.
    ///
    /// # Errors
    /// The body is not plain.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<usize, HeadError> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at)
            && !self.is_done()
        {
            if let ChunkState::Data { left } = self.0 {
                let part = (bytes.len() - at).min(usize::try_from(left).unwrap_or(usize::MAX));
                self.skip(part as u64);
                at += part;
                continue;
            }
            self.0 = self.step(*byte).ok_or(HeadError::Ambiguous("a chunked body with extensions, trailers or odd lines"))?;
            at += 1;
        }
        Ok(at)
    }

    fn step(&self, byte: u8) -> Option<ChunkState> {
        match (self.0, byte) {
            (ChunkState::Size { digits: 1.., size }, b'\r') => Some(ChunkState::SizeEnd { size }),
            (ChunkState::Size { digits, size }, _) if digits < MAX_DIGITS => {
                let digit = char::from(byte).to_digit(16)?;
                Some(ChunkState::Size { digits: digits + 1, size: size * 16 + u64::from(digit) })
            }
            (ChunkState::SizeEnd { size: 0 }, b'\n') => Some(ChunkState::Return { last: true }),
            (ChunkState::SizeEnd { size }, b'\n') => Some(ChunkState::Data { left: size }),
            (ChunkState::Return { last }, b'\r') => Some(ChunkState::Feed { last }),
            (ChunkState::Feed { last: true }, b'\n') => Some(ChunkState::Done),
            (ChunkState::Feed { last: false }, b'\n') => Some(Self::default().0),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn body_ends_after_its_last_chunk() {
        for (body, length) in [
            (&b"0\r\n\r\nGET"[..], 5),
            (b"3\r\nabc\r\n0\r\n\r\n", 13),
            (b"A\r\n0\r\n\r\n67890\r\n1\r\nx\r\n000\r\n\r\nPOST /", 28),
        ] {
            let mut chunks = Chunks::default();
            assert_eq!((chunks.scan(body), chunks.is_done()), (Ok(length), true), "{body:?}");
            let mut chunks = Chunks::default();
            let single: usize = body.iter().map(|byte| chunks.scan(&[*byte]).unwrap()).sum();
            assert_eq!((single, chunks.is_done()), (length, true), "{body:?}");
            let mut chunks = Chunks::default();
            assert_eq!((chunks.scan(&body[..length - 1]), chunks.is_done()), (Ok(length - 1), false), "{body:?}");
        }
    }

    #[test]
    fn odd_bodies_are_refused() {
        for body in [
            &b"\r\n"[..],
            b"3;a=b\r\nabc\r\n0\r\n\r\n",
            b"3 \r\nabc\r\n0\r\n\r\n",
            b" 3\r\nabc\r\n0\r\n\r\n",
            b"+3\r\nabc\r\n0\r\n\r\n",
            b"0x3\r\nabc\r\n0\r\n\r\n",
            b"3\nabc\r\n0\r\n\r\n",
            b"3\r\nabc\n0\r\n\r\n",
            b"3\r\nabcd\r\n0\r\n\r\n",
            b"0\r\nTrailer: x\r\n\r\n",
            b"0\r\n\n",
            b"fffffffffffffffff\r\n",
        ] {
            assert!(matches!(Chunks::default().scan(body), Err(HeadError::Ambiguous(_))), "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn division_into_parts_does_not_matter(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..5), cut in 1_usize..30) {
            let mut body: Vec<u8> = parts.iter().flat_map(|part| [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat()).collect();
            body.extend_from_slice(b"0\r\n\r\n");
            let mut chunks = Chunks::default();
            for part in body.chunks(cut) {
                prop_assert!(!chunks.is_done());
                prop_assert_eq!(chunks.scan(part), Ok(part.len()));
            }
            prop_assert!(chunks.is_done());
        }
    }
}
