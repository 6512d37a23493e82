//! Masks secrets in the frames that a server sends over a WebSocket (RFC 6455, 5.2), without changing any length.
//!
//! A secret may be spread over the fragments of a message. The head of the next fragment then waits together with the bytes that
//! are held back.

use super::{
    error::InspectRefusal,
    mask::{Masker, Patterns},
};
use std::{collections::VecDeque, sync::Arc};

/// The maximum size of the head of a frame from a server, in bytes.
const MAX_HEAD: usize = 10;
/// The maximum length of the payload of a control frame, in bytes (RFC 6455, 5.5).
const MAX_CONTROL: u64 = 125;
/// The maximum number of bytes that wait while the start of a secret is held back.
const MAX_WAITING: usize = 16 * 1024;

/// The frames from one server.
pub(crate) struct Frames {
    state: Part,
    masker: Masker,
    /// The number of bytes of messages that the masker received, and that it returned.
    fed: u64,
    released: u64,
    /// Heads and control frames, each with the number of bytes of messages before it.
    waiting: VecDeque<(u64, Vec<u8>)>,
}

enum Part {
    Head(Vec<u8>),
    /// A frame of a message.
    Data {
        left: u64,
        last: bool,
    },
    /// A control frame, with its head.
    Control {
        left: u64,
        head: usize,
        frame: Vec<u8>,
    },
}

impl Frames {
    pub(crate) fn new(patterns: Arc<Patterns>) -> Self {
        Self { state: Part::Head(Vec::new()), masker: Masker::new(patterns), fed: 0, released: 0, waiting: VecDeque::new() }
    }

    /// Takes bytes from the server, and returns the masked bytes that can be forwarded.
    ///
    /// # Errors
    /// The bytes are not frames that can be masked.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Result<Vec<u8>, InspectRefusal> {
        let mut out = Vec::with_capacity(bytes.len());
        while !bytes.is_empty() {
            let taken = self.step(bytes, &mut out)?;
            bytes = &bytes[taken..];
        }
        if self.waiting.iter().map(|(_, part)| part.len()).sum::<usize>() > MAX_WAITING {
            return Err(InspectRefusal::Frames("too many frames within the start of a secret"));
        }
        Ok(out)
    }

    /// Takes a part of the bytes, and returns its length.
    fn step(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, InspectRefusal> {
        let room = |left: u64| bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match &mut self.state {
            Part::Head(head) => {
                head.push(bytes[0]);
                if let Some((left, last, control)) = decode(head)? {
                    let head = std::mem::take(head);
                    self.start(left, last, control, head, out);
                }
                Ok(1)
            }
            Part::Data { left, last } => {
                let (part, last) = (room(*left), *last);
                *left -= part as u64;
                let done = *left == 0;
                self.fed += part as u64;
                let masked = self.masker.feed(&bytes[..part]);
                self.append_masked(&masked, out);
                if done {
                    self.end(last, out);
                }
                Ok(part)
            }
            Part::Control { left, head, frame } => {
                let part = room(*left);
                *left -= part as u64;
                frame.extend_from_slice(&bytes[..part]);
                if *left == 0 {
                    let mut frame = std::mem::take(frame);
                    self.masker.patterns().mask(&mut frame[*head..]);
                    self.waiting.push_back((self.fed, frame));
                    self.state = Part::Head(Vec::new());
                    self.append_masked(&[], out);
                }
                Ok(part)
            }
        }
    }

    fn start(&mut self, left: u64, last: bool, control: bool, head: Vec<u8>, out: &mut Vec<u8>) {
        if control && left > 0 {
            self.state = Part::Control { left, head: head.len(), frame: head };
            return;
        }
        self.waiting.push_back((self.fed, head));
        self.state = Part::Data { left, last };
        self.append_masked(&[], out);
        if control {
            self.state = Part::Head(Vec::new());
        } else if left == 0 {
            self.end(last, out);
        }
    }

    /// Ends a frame of a message. The last frame also ends the message.
    fn end(&mut self, last: bool, out: &mut Vec<u8>) {
        self.state = Part::Head(Vec::new());
        if last {
            let masked = self.masker.finish();
            self.append_masked(&masked, out);
        }
    }

    /// Appends masked bytes of messages to `out`, and inserts the waiting heads and control frames between them.
    fn append_masked(&mut self, mut masked: &[u8], out: &mut Vec<u8>) {
        while let Some((at, _)) = self.waiting.front() {
            let before = usize::try_from(at - self.released).unwrap_or(usize::MAX);
            let Some((first, rest)) = masked.split_at_checked(before) else { break };
            out.extend_from_slice(first);
            self.released = *at;
            masked = rest;
            out.extend(self.waiting.pop_front().map(|(_, part)| part).unwrap_or_default());
        }
        out.extend_from_slice(masked);
        self.released += masked.len() as u64;
    }
}

/// Reads the head of a frame: the length of its payload, whether it is the last one of its message, and whether it is a control
/// frame. Returns `None` if more bytes are needed.
fn decode(head: &[u8]) -> Result<Option<(u64, bool, bool)>, InspectRefusal> {
    let [first, second, extended @ ..] = head else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err(InspectRefusal::Frames("a frame of an extension that was not offered"));
    }
    if second & 0x80 != 0 {
        return Err(InspectRefusal::Frames("a masked frame from a server"));
    }
    let (last, code) = (first & 0x80 != 0, first & 0x0f);
    let wanted = match second {
        127 => MAX_HEAD - 2,
        126 => 2,
        _ => 0,
    };
    if extended.len() < wanted {
        return Ok(None);
    }
    let length = extended.iter().fold(0, |length: u64, byte| (length << 8) | u64::from(*byte));
    let length = if wanted == 0 { u64::from(*second) } else { length };
    match code {
        0..=2 if length >> 63 == 0 => Ok(Some((length, last, false))),
        8..=10 if last && length <= MAX_CONTROL && wanted == 0 => Ok(Some((length, last, true))),
        _ => Err(InspectRefusal::Frames("a frame that RFC 6455 does not permit")),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..126 => frame.push(u8::try_from(length).unwrap()),
            length => {
                frame.push(126);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
        }
        frame.extend_from_slice(payload);
        frame
    }

    fn frames() -> Frames {
        Frames::new(Arc::new(Patterns::new([&b"secret-value".to_vec()])))
    }

    fn masked(bytes: &[u8], size: usize) -> Result<Vec<u8>, InspectRefusal> {
        let mut frames = frames();
        let mut out = Vec::new();
        for part in bytes.chunks(size) {
            out.extend(frames.feed(part)?);
        }
        Ok(out)
    }

    #[test]
    fn secret_is_masked_in_a_message_in_fragments_and_in_control_frames() {
        let long = [&[b'x'; 300][..], b"secret-value"].concat();
        let sent = [
            frame(0x81, b"a secret-value b"),
            frame(0x02, b"sec"),
            frame(0x00, b""),
            frame(0x89, b"ping secret-value"),
            frame(0x00, b"ret-va"),
            frame(0x80, b"lue."),
            frame(0x82, &long),
            frame(0x88, b""),
        ];
        let expected = [
            frame(0x81, b"a ************ b"),
            frame(0x02, b"***"),
            frame(0x00, b""),
            frame(0x89, b"ping ************"),
            frame(0x00, b"******"),
            frame(0x80, b"***."),
            frame(0x82, &[&[b'x'; 300][..], &[b'*'; 12]].concat()),
            frame(0x88, b""),
        ];
        for size in 1..60 {
            assert_eq!(masked(&sent.concat(), size), Ok(expected.concat()), "{size}");
        }
    }

    #[test]
    fn message_without_a_secret_is_forwarded_at_once() {
        let mut frames = frames();
        for message in [frame(0x81, b"first"), frame(0x81, b"ends with s"), frame(0x81, b"ecret-value")] {
            assert_eq!(frames.feed(&message), Ok(message.clone()), "messages are separate");
        }
    }

    #[test]
    fn frames_that_cannot_be_masked_are_refused() {
        for bytes in [
            vec![0xc1, 0],
            vec![0x81, 0x80],
            vec![0x83, 0],
            vec![0x08, 0],
            vec![0x89, 126, 0, 126],
            vec![0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert!(matches!(frames().feed(&bytes), Err(InspectRefusal::Frames(_))), "{bytes:?}");
        }
        let mut endless = frame(0x01, b"secret");
        endless.extend(frame(0x00, b"").repeat(MAX_WAITING));
        assert!(matches!(masked(&endless, 1000), Err(InspectRefusal::Frames(_))));
    }

    proptest! {
        #[test]
        fn plain_messages_pass_unchanged(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..6), size in 1_usize..50) {
            let last = payloads.len() - 1;
            let sent: Vec<u8> = payloads
                .iter()
                .enumerate()
                .flat_map(|(at, payload)| frame(u8::from(at == 0) * 2 + u8::from(at == last) * 0x80, payload))
                .collect();
            prop_assert_eq!(masked(&sent, size), Ok(sent));
        }
    }
}
