//! Frames: a decimal length, a line feed, and as many bytes of JSON. A shell can read and write them.

use crate::cell::KernelViolation;
use data_encoding::BASE64;

/// The maximum size of a frame from a kernel, in bytes. The digits of its length do not count.
pub const MAX_FRAME: usize = 8 << 20;

/// The maximum number of digits of a length.
const MAX_DIGITS: usize = 8;

/// Returns the frame that executes a cell. The source is encoded, so that a shell without a JSON parser can read it.
pub fn request(cell: u32, source: &str) -> Vec<u8> {
    let body = format!("{{\"cell\":{cell},\"source\":\"{}\"}}", BASE64.encode(source.as_bytes()));
    let mut frame = format!("{}\n", body.len()).into_bytes();
    frame.extend_from_slice(body.as_bytes());
    frame
}

/// Splits the bytes from a kernel into frames. Holds at most one incomplete frame, and the bytes that were received with it.
#[derive(Debug, Default)]
pub(crate) struct FrameDecoder {
    received: Vec<u8>,
    /// The number of received bytes that were decoded.
    used: usize,
}

impl FrameDecoder {
    /// Adds the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.received.drain(..self.used);
        self.used = 0;
        self.received.extend_from_slice(bytes);
    }

    /// Returns the next frame without its length; `None` if it is incomplete.
    ///
    /// # Errors
    /// [`KernelViolation`] if the length is not a number, or above the limit.
    pub fn decode(&mut self) -> Result<Option<&[u8]>, KernelViolation> {
        let rest = self.received.get(self.used..).unwrap_or_default();
        let Some(digits) = rest.iter().take(MAX_DIGITS + 1).position(|byte| *byte == b'\n') else {
            let is_number = rest.len() <= MAX_DIGITS && rest.iter().all(u8::is_ascii_digit);
            return if is_number { Ok(None) } else { Err(KernelViolation::Length) };
        };
        let text = rest.get(..digits).unwrap_or_default();
        // `usize::from_str` also accepts a sign.
        let number = Some(text).filter(|text| text.iter().all(u8::is_ascii_digit)).and_then(|text| str::from_utf8(text).ok());
        let length = number.and_then(|number| number.parse::<usize>().ok()).filter(|length| *length <= MAX_FRAME);
        let start = self.used + digits + 1;
        let end = start + length.ok_or(KernelViolation::Length)?;
        if self.received.len() < end {
            return Ok(None);
        }
        self.used = end;
        Ok(self.received.get(start..end))
    }

    /// Returns true if bytes were received that belong to no complete frame.
    pub fn has_rest(&self) -> bool {
        self.used < self.received.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(pieces: &[&[u8]]) -> Result<Vec<Vec<u8>>, KernelViolation> {
        let mut decoder = FrameDecoder::default();
        let mut frames = Vec::new();
        for piece in pieces {
            decoder.push(piece);
            while let Some(frame) = decoder.decode()? {
                frames.push(frame.to_vec());
            }
        }
        Ok(frames)
    }

    #[test]
    fn frames_in_any_pieces_are_the_same() {
        let whole: &[u8] = b"2\n{}0\n4\nnull";
        let expected = vec![b"{}".to_vec(), Vec::new(), b"null".to_vec()];
        assert_eq!(frames(&[whole]).unwrap(), expected);
        let single: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(frames(&single).unwrap(), expected);
    }

    #[test]
    fn length_that_is_not_a_number_or_above_the_limit_is_a_violation() {
        for bytes in [&b"x"[..], b"\n", b"-1\n", b"+1\n", b"1 \n", b"123456789", b"99999999\n", b"8388609\n", b"\xff\n"] {
            assert_eq!(frames(&[bytes]), Err(KernelViolation::Length), "{bytes:?}");
        }
        assert_eq!(frames(&[b"8388608\n"]), Ok(Vec::new()));
        assert_eq!(frames(&[b"12345678"]), Ok(Vec::new()));
    }

    #[test]
    fn source_of_a_request_is_encoded() {
        assert_eq!(request(7, "a\n\"").as_slice(), b"26\n{\"cell\":7,\"source\":\"YQoi\"}".as_slice());
    }
}
