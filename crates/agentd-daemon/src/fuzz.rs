//! Entry points of the fuzz targets in `fuzz/`, for the messages between a client and the daemon. Each function returns how much
//! of its input was valid, or the invariant that the input broke.

use crate::{
    protocol::{Answer, ExecMessage, Hello, MAX_FRAME, Reply, Request},
    report,
};
use agentd_supervisor::protocol::{HEAD, MAX_FDS, decode, encode};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::File,
    io::{Seek as _, Write as _},
    os::fd::OwnedFd,
};

/// Decodes frames of both directions and encodes each again.
///
/// # Errors
/// The invariant that is broken.
pub fn messages(bytes: &[u8]) -> Result<usize, String> {
    Ok(decode_all::<Hello>(bytes)?
        + decode_all::<Answer>(bytes)?
        + decode_all::<Request>(bytes)?
        + decode_all::<ExecMessage>(bytes)?
        + decode_all::<Reply>(bytes)?)
}

fn decode_all<M: Serialize + DeserializeOwned>(mut bytes: &[u8]) -> Result<usize, String> {
    let mut decoded = 0;
    while let Ok(Some((message, fds, length))) = decode::<M>(bytes, MAX_FRAME) {
        if length < HEAD || length > bytes.len().min(MAX_FRAME + HEAD) || fds > MAX_FDS {
            return Err(format!("decoded a message of {length} bytes with {fds} descriptors, above the limits"));
        }
        let once = encode(&message, fds).map_err(|error| format!("encode a decoded message: {error}"))?;
        let same = decode::<M>(&once, usize::MAX).ok().flatten().and_then(|(message, fds, _)| encode(&message, fds).ok());
        if same.as_ref() != Some(&once) {
            return Err("a message changed when it was encoded and decoded again".to_owned());
        }
        bytes = &bytes[length..];
        decoded += 1;
    }
    Ok(decoded)
}

/// Reads both kinds of reports from files in memory, and returns the number of entries.
///
/// # Errors
/// If no file in memory can be created.
pub fn reports(bytes: &[u8]) -> Result<usize, String> {
    let changes = report::read_changes(memory(bytes)?).map_or(0, |changes| changes.len());
    Ok(changes + report::read_findings(memory(bytes)?).map_or(0, |findings| findings.len()))
}

fn memory(bytes: &[u8]) -> Result<OwnedFd, String> {
    let made = || -> std::io::Result<OwnedFd> {
        let mut file = File::from(rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC)?);
        file.write_all(bytes)?;
        file.rewind()?;
        Ok(file.into())
    };
    made().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        handshake::Nonce,
        protocol::{Failure, VERSION},
    };
    use agentd_core::{Command, EndReason};
    use agentd_isolation::protect::Report;

    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seed.rs"));

    #[test]
    fn seeds_are_accepted_in_full() {
        let name = || "one".parse().unwrap();
        let command = Command { argv: vec!["true".into()], cwd: Some("/tmp".into()), ..Command::default() };
        let request = |request: Request| encode(&request, 1).unwrap();
        let requests = [
            request(Request::Exec { name: name(), command: Box::new(command), detach: false, proven: true }),
            request(Request::Fork { name: name(), snapshot: None, new: vec!["two".parse().unwrap()] }),
            request(Request::Interpreter { name: name(), start: None, proven: true }),
            request(Request::Status),
        ]
        .concat();
        let during = [ExecMessage::Signal(15), ExecMessage::End(EndReason::Cancelled), ExecMessage::Release]
            .map(|message| encode(&message, 0).unwrap())
            .concat();
        // The numbers are not random, so that the seeds are the same each time.
        let frame = [&[32, 0, 0, 0, 0][..], &[7; 32]].concat();
        let (Answer(tag), _, _) = decode(&frame, MAX_FRAME).unwrap().unwrap();
        let (nonce, _, _): (Nonce, _, _) = decode(&frame, MAX_FRAME).unwrap().unwrap();
        let hello = encode(&Hello { version: VERSION, nonce }, 0).unwrap();
        let answer = encode(&Answer(tag), 0).unwrap();
        let challenge = encode(&Reply::Challenge { nonce, tag }, 0).unwrap();
        let replies = [
            encode(&Reply::Done, 1).unwrap(),
            encode(
                &Reply::HostWaits {
                    to: "a.example:443".to_owned(),
                    intent: "7".to_owned(),
                    wait: std::time::Duration::from_secs(1),
                },
                0,
            )
            .unwrap(),
            encode(&Reply::Failed(Failure::Other("why".to_owned())), 0).unwrap(),
            encode(&Reply::Made(Vec::new(), Report::default()), 0).unwrap(),
            challenge,
        ]
        .concat();
        for (file, seed, number) in [
            ("hello", hello, 1),
            ("answer", answer, 1),
            ("requests", requests, 4),
            ("during", during, 3),
            ("replies", replies, 5),
        ] {
            // Short messages of one kind may also be messages of another.
            assert!(messages(&seed).unwrap() >= number, "{file}");
            keep_seed("daemon_messages", file, &seed);
        }
        let report = b"Aa\0Cb\n/\xff\0Dc\0";
        assert_eq!(reports(report), Ok(3));
        assert_eq!(reports(b"!damage\0-note\0"), Ok(2));
        keep_seed("daemon_reports", "changes", report);
    }
}
