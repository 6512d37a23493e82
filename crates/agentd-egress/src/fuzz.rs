//! Entry points of the fuzz targets in `fuzz/`, for everything that a sandbox or a user sends to the gateway. Each function
//! returns how much of its input was valid, or the invariant that the input broke.

use crate::{
    dns,
    grant::{NetGrant, NetGrants},
    hello,
    http::{Chunks, RequestCheck},
    inspect::{mask::Patterns, websocket::Frames},
    limits::MAX_FIRST_BYTES,
    name::HostName,
    synthetic::SyntheticNames,
};
use std::sync::Arc;

/// The grants of the targets.
const GRANTS: &str = "a.example,*.b.example:80,a.example:80/GET:/v1/*";

/// Parses grants, and parses their text form again.
///
/// # Errors
/// The second result differs.
pub fn grants(bytes: &[u8]) -> Result<usize, String> {
    let Ok(parsed) = String::from_utf8_lossy(bytes).parse::<NetGrants>() else { return Ok(0) };
    let text = parsed.iter().map(NetGrant::to_string).collect::<Vec<_>>().join(",");
    match text.parse::<NetGrants>() {
        Ok(again) if again == parsed => Ok(parsed.iter().count()),
        other => Err(format!("{text:?} became {other:?}")),
    }
}

/// Answers a query, and checks that only a granted name has an address.
///
/// # Errors
/// The answer is too long or does not belong to this query, or a refused name got an address.
pub fn query(bytes: &[u8]) -> Result<usize, String> {
    let granted: NetGrants = GRANTS.parse().map_err(|error| format!("{error}"))?;
    let mut names = SyntheticNames::new(4);
    let Some(answer) = dns::answer(bytes, &granted, &mut names) else { return Ok(0) };
    let (head, _) = answer.bytes.split_first_chunk::<12>().ok_or("an answer without a head")?;
    if answer.bytes.len() > 512 {
        return Err(format!("an answer of {} bytes", answer.bytes.len()));
    }
    if head[..2] != bytes[..2] || head[2] & 0x80 == 0 {
        return Err("an answer to another query".to_owned());
    }
    let answers = u16::from_be_bytes([head[6], head[7]]);
    if answers > 1 || (answers > 0 && answer.refused.is_some()) {
        return Err(format!("{answers} records for a refused question"));
    }
    Ok(answers.into())
}

/// Decodes a ClientHello, whole and in two parts.
///
/// # Errors
/// The decision depends on how the bytes arrive.
pub fn client_hello(bytes: &[u8]) -> Result<usize, String> {
    let whole = hello::decode(bytes);
    let half = hello::decode(&bytes[..bytes.len() / 2]);
    if half != Ok(None) && half != whole {
        return Err(format!("{half:?} became {whole:?}"));
    }
    if whole == Ok(None) && bytes.len() >= MAX_FIRST_BYTES {
        return Err("more than the limit is read".to_owned());
    }
    Ok(usize::from(matches!(whole, Ok(Some(_)))))
}

/// Reads requests with their chunked bodies, as the gateway forwards them.
///
/// # Errors
/// A head is longer than its bytes, or names another host.
pub fn requests(mut bytes: &[u8]) -> Result<usize, String> {
    let granted: NetGrants = GRANTS.parse().map_err(|error| format!("{error}"))?;
    let name = HostName::from_wire(b"a.example").map_err(|error| error.to_string())?;
    let rules = granted.tcp_name(&name, 80).map(|access| access.requests).unwrap_or_default();
    let check = RequestCheck { name: &name, port: 80, rules: &rules };
    let mut accepted = 0;
    while let Ok(Some(head)) = check.head(bytes) {
        let (text, rest) = bytes.split_at_checked(head.length).ok_or("a head longer than its bytes")?;
        let text = text.to_ascii_lowercase();
        if text.windows(6).filter(|part| part == b"\nhost:").count() != 1 {
            return Err("not exactly one host".to_owned());
        }
        let body = match head.body {
            crate::http::BodyLength::Fixed(length) => usize::try_from(length).unwrap_or(usize::MAX).min(rest.len()),
            crate::http::BodyLength::Chunked => Chunks::default().scan(rest).unwrap_or(rest.len()),
        };
        bytes = &rest[body..];
        accepted += 1;
    }
    Ok(accepted)
}

/// Masks the frames of a WebSocket, whole and in parts of the length that the first byte states.
///
/// # Errors
/// A length or a byte changed, except by a mask, or the result depends on how the frames arrive.
pub fn websocket(bytes: &[u8]) -> Result<usize, String> {
    let Some((size, bytes)) = bytes.split_first() else { return Ok(0) };
    let patterns = Arc::new(Patterns::new([&b"secret-value".to_vec()]));
    let Ok(whole) = Frames::new(patterns.clone()).feed(bytes) else { return Ok(0) };
    if whole.len() > bytes.len() || whole.iter().zip(bytes).any(|(out, sent)| out != sent && *out != b'*') {
        return Err(format!("{bytes:?} became {whole:?}"));
    }
    let mut frames = Frames::new(patterns);
    let parts: Result<Vec<_>, _> = bytes.chunks(usize::from(*size).max(1)).map(|part| frames.feed(part)).collect();
    match parts {
        Ok(parts) if parts.concat() != whole => Err(format!("{whole:?} became {:?}", parts.concat())),
        _ => Ok(whole.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        hello::tests::{made, real_hello, sni},
        inspect::websocket::tests::frame,
    };
    use hickory_proto::{
        op::{Message, MessageType, OpCode, Query},
        rr::{Name, RecordType},
    };

    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seed.rs"));

    const REQUESTS: &[u8] = b"GET /v1/x HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
        GET http://a.example/v1/y HTTP/1.1\r\nHost: A.example:80\r\nContent-Length: 0\r\n\r\n";
    const LIST: &[u8] = b"a.example,*.b.example:22/tcp,10.0.0.0/8:5432,[2001:db8::/32]:443,c.example/GET:/v1/*/x%2Cy,\
        d.example:123/udp,10.1.2.0/24:514/udp";

    /// The size of parts, a message in fragments with a ping between them, and a long message.
    fn messages() -> Vec<u8> {
        let long = [&[b'x'; 200][..], b"secret-value"].concat();
        let frames = [frame(0x01, b"a secret"), frame(0x89, b"ping"), frame(0x80, b"-value b"), frame(0x82, &long)];
        [vec![7], frames.concat()].concat()
    }

    proptest::proptest! {
        /// Changes some bytes of a valid input.
        #[test]
        fn changed_inputs_break_no_invariant(
            changes in proptest::collection::vec((proptest::prelude::any::<usize>(), proptest::prelude::any::<u8>()), 1..4),
            printable in proptest::prelude::any::<bool>(),
        ) {
            let changed = |seed: &[u8]| {
                let mut bytes = seed.to_vec();
                for (at, value) in &changes {
                    let at = at % bytes.len();
                    bytes[at] = if printable { b' ' + value % 95 } else { *value };
                }
                bytes
            };
            proptest::prop_assert_eq!(grants(&changed(LIST)).err(), None);
            proptest::prop_assert_eq!(requests(&changed(REQUESTS)).err(), None);
            proptest::prop_assert_eq!(websocket(&changed(&messages())).err(), None);
            proptest::prop_assert_eq!(client_hello(&changed(&made(&[sni(&[(0, b"a.example")])], 60))).err(), None);
        }
    }

    #[test]
    fn seeds_are_accepted_in_full() {
        assert_eq!(grants(LIST), Ok(7));
        keep_seed("egress_grants", "list", LIST);
        let question = |name: &str, kind| {
            let mut message = Message::new(7, MessageType::Query, OpCode::Query);
            message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
            message.set_edns(hickory_proto::op::Edns::new());
            message.to_vec().unwrap()
        };
        for (file, kind) in [("a", RecordType::A), ("aaaa", RecordType::AAAA)] {
            let seed = question("x.B.example.", kind);
            assert_eq!(query(&seed), Ok(1));
            keep_seed("egress_query", file, &seed);
        }
        for (file, seed) in [("real", real_hello("a.example")), ("split", made(&[sni(&[(0, b"a.example")])], 20))] {
            assert_eq!(client_hello(&seed), Ok(1));
            keep_seed("egress_hello", file, &seed);
        }
        assert_eq!(requests(REQUESTS), Ok(2));
        keep_seed("egress_requests", "two", REQUESTS);
        assert_eq!(websocket(&messages()), Ok(messages().len() - 1));
        keep_seed("egress_websocket", "messages", &messages());
    }
}
