//! Entry points of the fuzz targets of `fuzz/`, for the code that handles bytes from a guest. Each returns how much of its input
//! was valid, or an invariant that the input broke.

pub use super::sync::fuzz::{entries, receive};

use super::{
    flow::window,
    frame::{self, Frame, MAX_FROM_GUEST, MAX_TO_GUEST, StreamId, StreamKind},
    mux::{Mux, ReadNext},
    protocol::{FromGuest, ToGuest},
    sanitize,
};
use agentd_core::{ControlReport, ControlStatus};
use serde::{Serialize, de::DeserializeOwned};
use std::cell::Cell;
use tokio::io::AsyncReadExt as _;

/// The number of execs whose streams are open while [`mux`] reads. Their numbers are below this one.
const EXECS: u32 = 3;

/// Decodes frames of both directions, encodes each again, and checks the texts that would be shown to users.
///
/// # Errors
/// Returns the invariant that is broken.
pub fn frames(bytes: &[u8]) -> Result<usize, String> {
    Ok(decode_all::<FromGuest>(bytes, MAX_FROM_GUEST, shows)? + decode_all::<ToGuest>(bytes, MAX_TO_GUEST, |_| Ok(()))?)
}

fn decode_all<M: Serialize + DeserializeOwned + PartialEq>(
    mut bytes: &[u8],
    limit: usize,
    check: impl Fn(M) -> Result<(), String>,
) -> Result<usize, String> {
    let mut decoded = 0;
    while let Ok(Some((frame, length))) = frame::decode::<M>(bytes, limit) {
        if length < frame::HEAD || length > bytes.len().min(limit + frame::HEAD) {
            return Err(format!("a decoded frame has an impossible length: {length} bytes"));
        }
        let mut again = Vec::new();
        frame::encode(&frame, usize::MAX, &mut again).map_err(|error| format!("a decoded frame cannot be encoded: {error}"))?;
        match frame::decode::<M>(&again, usize::MAX) {
            Ok(Some((same, _))) if same == frame => {}
            _ => return Err("a frame changes when it is encoded and decoded again".to_owned()),
        }
        if let Frame::Message(message) = frame {
            check(message)?;
        }
        bytes = &bytes[length..];
        decoded += 1;
    }
    Ok(decoded)
}

/// Checks that the displayed parts of a message contain no control characters, and that usage can be added.
fn shows(message: FromGuest) -> Result<(), String> {
    let text = match message {
        FromGuest::Attached(Ok(controls)) => sanitize::sanitize_controls(controls).into_iter().map(control_text).collect(),
        FromGuest::Attached(Err(failure)) | FromGuest::Failed { failure, .. } => failure.into_error("subject").to_string(),
        FromGuest::Probed { evidence, .. } => {
            sanitize::sanitize_evidence(evidence).into_iter().map(|evidence| evidence.check + &evidence.remedy).collect()
        }
        FromGuest::Used { usage, .. } => {
            let usage = sanitize::bounded(usage);
            return usage
                .cpu_user
                .checked_add(usage.cpu_system)
                .map(drop)
                .ok_or_else(|| "the sum of the reported usage overflows".to_owned());
        }
        FromGuest::Ended { .. }
        | FromGuest::Done { .. }
        | FromGuest::Connected { .. }
        | FromGuest::Query { .. }
        | FromGuest::Attempt { .. }
        | FromGuest::Quiesced => return Ok(()),
    };
    if text.contains(char::is_control) { Err(format!("control characters are shown: {text:?}")) } else { Ok(()) }
}

fn control_text(ControlReport { detail, status, .. }: ControlReport) -> String {
    detail
        + &match status {
            ControlStatus::Partial(what) => what,
            ControlStatus::Missing(error) => error.to_string(),
            _ => String::new(),
        }
}

/// Reads a connection's bytes as the host does, in two parts, with the streams of some execs open, and returns the number of
/// messages. The first byte is the offset of the second part.
///
/// # Errors
/// Returns the invariant that is broken.
pub fn mux(bytes: &[u8]) -> Result<usize, String> {
    let Some((cut, bytes)) = bytes.split_first() else { return Ok(0) };
    let (first, second) = bytes.split_at(usize::from(*cut).min(bytes.len()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| error.to_string())?;
    let mux = Mux::new(MAX_TO_GUEST, MAX_FROM_GUEST);
    let mut recv_streams = Vec::new();
    let mut send_streams = Vec::new();
    for operation in 0..EXECS {
        for kind in [StreamKind::Output, StreamKind::Error, StreamKind::Up] {
            let stream = StreamId { operation, kind };
            recv_streams.push((stream, mux.recv_stream(stream).map_err(|error| error.to_string())?));
        }
        for kind in [StreamKind::Input, StreamKind::Down] {
            send_streams.push(mux.send_stream(StreamId { operation, kind }).map_err(|error| error.to_string())?);
        }
    }
    let messages = Cell::new(0);
    let handle = |message: FromGuest| {
        messages.set(messages.get() + 1);
        Ok(if message == FromGuest::Quiesced { ReadNext::Stop } else { ReadNext::More })
    };
    let end = runtime.block_on(mux.run(&mut first.chain(second), &mut tokio::io::sink(), handle));
    if let Err(why) = end {
        mux.lose(&why);
    }
    for (id, _) in &recv_streams {
        let waiting = mux.take(*id).unwrap_or_default().len();
        let max = window(id.kind);
        if waiting > max as usize {
            return Err(format!("{waiting} bytes of a stream are buffered, over the window of {max}"));
        }
    }
    Ok(messages.get())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{protocol::End, sanitize::Failure},
        *,
    };
    use agentd_core::{EndReason, Usage};
    use std::borrow::Cow;

    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seed.rs"));

    /// Encodes frames.
    fn encoded<M: Serialize>(frames: &[Frame<'_, M>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame::encode(frame, MAX_TO_GUEST, &mut bytes).unwrap());
        bytes
    }

    fn from_guest() -> Vec<u8> {
        let stream = StreamId { operation: 1, kind: StreamKind::Output };
        encoded(&[
            Frame::Message(FromGuest::Attached(Ok(Vec::new()))),
            Frame::Data { stream, bytes: Cow::Borrowed(b"some output") },
            Frame::Credit { stream: StreamId { operation: 1, kind: StreamKind::Input }, bytes: 0 },
            Frame::Close { stream: StreamId { operation: 2, kind: StreamKind::Input } },
            Frame::Eof { stream },
            Frame::Message(FromGuest::Failed { id: 2, failure: Failure::Other("\x1b[2Jfailed".to_owned()) }),
            Frame::Message(FromGuest::Used { id: 3, usage: Usage::default() }),
            Frame::Message(FromGuest::Ended {
                id: 1,
                end: End { reason: EndReason::Exited, exit_code: Some(0), signal: None, usage: Usage::default() },
            }),
            Frame::Data { stream: StreamId { operation: 1, kind: StreamKind::Up }, bytes: Cow::Borrowed(b"sent") },
            Frame::Abort { stream: StreamId { operation: 1, kind: StreamKind::Up } },
            Frame::Message(FromGuest::Connected { connection: 0, to: ([93, 184, 216, 34], 443).into() }),
            Frame::Message(FromGuest::Query { query: 0, to: [8, 8, 8, 8].into(), bytes: b"question".to_vec() }),
            Frame::Message(FromGuest::Attempt { udp: true, to: ([93, 184, 216, 34], 443).into() }),
            Frame::Message(FromGuest::Quiesced),
        ])
    }

    fn to_guest() -> Vec<u8> {
        encoded(&[
            Frame::Message(ToGuest::Signal { id: 1, signal: 15 }),
            Frame::Message(ToGuest::Read { id: 2, path: b"/etc/hostname".to_vec() }),
            Frame::Message(ToGuest::Changes { id: 3, number: 0, taken: true }),
            Frame::Message(ToGuest::Connections(512)),
            Frame::Message(ToGuest::Answer { query: 0, bytes: b"answer".to_vec() }),
            Frame::Message(ToGuest::Listen { id: 4, ports: vec![443] }),
        ])
    }

    #[test]
    fn seeds_are_accepted_in_full() {
        assert_eq!(frames(&from_guest()), Ok(14));
        assert_eq!(frames(&to_guest()), Ok(6));
        let connection = [&[40], &from_guest()[..]].concat();
        assert_eq!(mux(&connection), Ok(8));
        keep_seed("guest_frames", "from_guest", &from_guest());
        keep_seed("guest_frames", "to_guest", &to_guest());
        keep_seed("guest_mux", "from_guest", &connection);
    }
}
