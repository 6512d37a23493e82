//! The DNS of a sandbox: each granted name has a synthetic address, and no other name exists.
//!
//! Every query gets an immediate answer, so that no client waits or asks another server. For a granted name, only records of
//! type A and AAAA exist. A query for another type gets an empty answer; HTTPS and SVCB are among these types, so no client
//! learns an ECH configuration. All other queries are refused with a code that ends the client's search. `serve` has the
//! sockets.

pub(crate) mod serve;

use crate::{grant::NetGrants, name::HostName, record::FlowRefusal, synthetic::SyntheticNames};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata},
};

/// The maximum size of a query, in bytes. A query has one question and possibly an OPT record.
pub(crate) const MAX_QUERY: usize = 1232;
/// The TTL of an answer, in seconds. The address of a name never changes. A client that asks again after this time learns that a
/// grant was revoked.
const TTL: u32 = 60;
/// The TTL of the answer that a name does not exist, in seconds. A grant may be added at any moment.
const NEGATIVE_TTL: u32 = 1;
/// The size of the head of a message, in bytes (RFC 1035, 4.1.1).
const HEAD: usize = 12;

/// An answer to a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsAnswer {
    /// The message.
    pub bytes: Vec<u8>,
    /// The name of a refused question, and the reason.
    pub refused: Option<(String, FlowRefusal)>,
}

/// Answers a query. Returns `None` for a message that is not a query. Such a message gets no answer, so that two servers never
/// answer each other.
pub fn answer(query: &[u8], grants: &NetGrants, names: &mut SyntheticNames) -> Option<DnsAnswer> {
    let (head, _) = query.split_first_chunk::<HEAD>()?;
    if head[2] & 0x80 != 0 {
        return None;
    }
    let id = u16::from_be_bytes([head[0], head[1]]);
    let parsed = if query.len() > MAX_QUERY { None } else { Message::from_vec(query).ok() };
    let Some(parsed) = parsed else {
        return encode(&Message::error_msg(id, OpCode::from_u8((head[2] >> 3) & 15), ResponseCode::FormErr), None);
    };
    let mut reply = Message::new(id, MessageType::Response, parsed.metadata.op_code);
    reply.metadata.recursion_desired = parsed.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    let mut refused = None;
    reply.metadata.response_code = match (&parsed.queries[..], parsed.metadata.op_code) {
        _ if parsed.edns.as_ref().is_some_and(|edns| edns.version() != 0) => ResponseCode::BADVERS,
        (_, op) if op != OpCode::Query => ResponseCode::NotImp,
        ([question], _) => {
            reply.add_query(question.clone());
            let found = resolve(question, grants, names);
            refused = found.refused;
            match found.record {
                Some(record) => drop(reply.add_answer(record.clone())),
                None => drop(reply.add_authority(start_of_authority())),
            }
            found.code
        }
        _ => ResponseCode::FormErr,
    };
    if parsed.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(u16::try_from(MAX_QUERY).unwrap_or(u16::MAX));
        reply.set_edns(edns);
    }
    encode(&reply, refused)
}

fn encode(reply: &Message, refused: Option<(String, FlowRefusal)>) -> Option<DnsAnswer> {
    Some(DnsAnswer { bytes: reply.to_vec().ok()?, refused })
}

/// The result of one question.
struct Resolution {
    code: ResponseCode,
    record: Option<Record>,
    refused: Option<(String, FlowRefusal)>,
}

fn resolve(question: &Query, grants: &NetGrants, names: &mut SyntheticNames) -> Resolution {
    let asked = question.name().to_ascii();
    let refuse = |code, refusal| Resolution { code, record: None, refused: Some((asked.clone(), refusal)) };
    let name = host_name(question.name()).filter(|name| question.query_class() == DNSClass::IN && grants.has_name(name));
    let Some(name) = name else {
        return refuse(ResponseCode::NXDomain, FlowRefusal::NameNotGranted);
    };
    let kind = question.query_type();
    if !matches!(kind, RecordType::A | RecordType::AAAA) {
        // Clients request these types by default.
        let usual = matches!(kind, RecordType::HTTPS | RecordType::SVCB);
        let refused = (!usual).then(|| (asked.clone(), FlowRefusal::RecordType(kind.to_string())));
        return Resolution { code: ResponseCode::NoError, record: None, refused };
    }
    let Some(pair) = names.assign(&name) else {
        return refuse(ResponseCode::Refused, FlowRefusal::TooManyNames);
    };
    let data = match kind {
        RecordType::A => RData::A(rdata::A(pair.v4)),
        _ => RData::AAAA(rdata::AAAA(pair.v6)),
    };
    Resolution {
        code: ResponseCode::NoError,
        record: Some(Record::from_rdata(question.name().clone(), TTL, data)),
        refused: None,
    }
}

/// Converts the name from the bytes of its labels, because the text form of a DNS name escapes bytes.
fn host_name(name: &Name) -> Option<HostName> {
    let labels: Vec<&[u8]> = name.iter().collect();
    let plain = labels.iter().all(|label| !label.contains(&b'.'));
    HostName::from_wire(&labels.join(&b'.')).ok().filter(|_| plain)
}

/// The record that lets a client remember a missing name or record (RFC 2308).
fn start_of_authority() -> Record {
    let seconds = i32::try_from(NEGATIVE_TTL).unwrap_or(1);
    let data = rdata::SOA::new(Name::root(), Name::root(), 1, seconds, seconds, seconds, NEGATIVE_TTL);
    Record::from_rdata(Name::root(), NEGATIVE_TTL, RData::SOA(data))
}

#[cfg(test)]
mod tests;
