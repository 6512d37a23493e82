use super::*;
use hickory_proto::rr::rdata::A;
use proptest::prelude::*;

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

struct Server {
    grants: NetGrants,
    names: SyntheticNames,
}

impl Server {
    fn new(grants: &str, max: usize) -> Self {
        Self { grants: grants.parse().unwrap(), names: SyntheticNames::new(max) }
    }

    fn bytes(&mut self, query: &[u8]) -> Option<(Message, Option<FlowRefusal>)> {
        let answer = answer(query, &self.grants, &mut self.names)?;
        assert!(answer.bytes.len() <= 512, "fits into a datagram without EDNS");
        Some((Message::from_vec(&answer.bytes).unwrap(), answer.refused.map(|(_, refusal)| refusal)))
    }

    fn ask(&mut self, query: &Message) -> (Message, Option<FlowRefusal>) {
        self.bytes(&query.to_vec().unwrap()).unwrap()
    }
}

#[test]
fn granted_name_has_one_address_of_each_family() {
    let mut server = Server::new("a.example,*.b.example:22", 10);
    let mut address = |name: &str, kind| {
        let (reply, refused) = server.ask(&query(name, kind));
        assert_eq!((reply.metadata.response_code, refused), (ResponseCode::NoError, None), "{name}");
        assert_eq!(reply.answers.len(), 1);
        // Clients that mix the case of a question compare the answer with it.
        assert!(reply.answers[0].name.eq_case(&Name::from_ascii(name).unwrap()));
        assert!(reply.queries[0].name().eq_case(&Name::from_ascii(name).unwrap()));
        (reply.metadata.id, reply.answers[0].data.clone())
    };
    let v4 = (0x1234, RData::A(A("198.18.1.0".parse().unwrap())));
    assert_eq!(address("a.example.", RecordType::A), v4);
    assert_eq!(address("A.eXample.", RecordType::A), v4);
    assert_eq!(address("a.example.", RecordType::AAAA).1, RData::AAAA(rdata::AAAA("fd61:6765:6e74::100".parse().unwrap())));
    assert_eq!(address("x.y.b.example.", RecordType::A).1, RData::A(A("198.18.1.1".parse().unwrap())));
}

#[test]
fn names_without_a_grant_do_not_exist_and_are_recorded() {
    let mut server = Server::new("a.example,*.b.example:22,10.0.0.0/8:53535", 10);
    for name in
        ["c.example.", "b.example.", "xa.example.", "a.example.com.", "example.", ".", "10.0.0.1.", "1.1.18.198.in-addr.arpa."]
    {
        for kind in [RecordType::A, RecordType::AAAA, RecordType::HTTPS, RecordType::TXT, RecordType::ANY] {
            let (reply, refused) = server.ask(&query(name, kind));
            assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain, "{name} {kind}");
            assert_eq!(refused, Some(FlowRefusal::NameNotGranted));
            assert!(reply.answers.is_empty() && reply.authorities.len() == 1, "the client may remember the answer");
        }
    }
    // A label may contain any byte; only its text form looks like two labels.
    let mut odd = query("x.", RecordType::A);
    odd.queries = vec![Query::query(Name::from_labels([&b"a.example"[..]]).unwrap(), RecordType::A)];
    assert_eq!(server.ask(&odd).0.metadata.response_code, ResponseCode::NXDomain);
    odd.queries = vec![Query::query(Name::from_labels([&b"evil\0"[..], b"b", b"example"]).unwrap(), RecordType::A)];
    assert_eq!(server.ask(&odd).0.metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn other_records_of_a_granted_name_are_empty_at_once() {
    let mut server = Server::new("a.example", 10);
    for (kind, recorded) in [
        (RecordType::HTTPS, false),
        (RecordType::SVCB, false),
        (RecordType::TXT, true),
        (RecordType::MX, true),
        (RecordType::ANY, true),
        (RecordType::AXFR, true),
    ] {
        let (reply, refused) = server.ask(&query("a.example.", kind));
        assert_eq!((reply.metadata.response_code, reply.answers.len(), reply.authorities.len()), (ResponseCode::NoError, 0, 1));
        assert_eq!(refused.is_some(), recorded, "{kind}");
    }
    let mut chaos = query("a.example.", RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(server.ask(&chaos).0.metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn full_table_refuses_new_names_and_keeps_the_old_ones() {
    let mut server = Server::new("*.a.example", 1);
    assert_eq!(server.ask(&query("x.a.example.", RecordType::A)).1, None);
    let (reply, refused) = server.ask(&query("y.a.example.", RecordType::A));
    assert_eq!((reply.metadata.response_code, refused), (ResponseCode::Refused, Some(FlowRefusal::TooManyNames)));
    assert_eq!(server.ask(&query("x.a.example.", RecordType::AAAA)).1, None);
}

#[test]
fn messages_that_are_not_queries_get_an_error_or_no_answer() {
    let mut server = Server::new("a.example", 10);
    let good = query("a.example.", RecordType::A);
    let code = |server: &mut Server, message: &Message| server.ask(message).0.metadata.response_code;
    let mut two = good.clone();
    two.add_query(good.queries[0].clone());
    assert_eq!(code(&mut server, &two), ResponseCode::FormErr);
    let mut none = good.clone();
    none.queries.clear();
    assert_eq!(code(&mut server, &none), ResponseCode::FormErr);
    let mut notify = good.clone();
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(code(&mut server, &notify), ResponseCode::NotImp);
    let mut edns = good.clone();
    edns.set_edns(Edns::new());
    let (reply, _) = server.ask(&edns);
    assert!(reply.edns.is_some() && reply.answers.len() == 1);
    edns.edns.as_mut().unwrap().set_version(9);
    let (reply, _) = server.ask(&edns);
    // The number stands for two codes; hickory reads it as BADSIG.
    assert_eq!((u16::from(reply.metadata.response_code), reply.answers.len()), (u16::from(ResponseCode::BADVERS), 0));

    let bytes = good.to_vec().unwrap();
    let (reply, _) = server.bytes(&bytes[..bytes.len() - 3]).unwrap();
    assert_eq!((reply.metadata.id, reply.metadata.response_code), (0x1234, ResponseCode::FormErr));
    let long = [&bytes[..], &[0; MAX_QUERY]].concat();
    assert_eq!(server.bytes(&long).unwrap().0.metadata.response_code, ResponseCode::FormErr);
    assert!(server.bytes(&bytes[..11]).is_none());
    let mut answer = bytes.clone();
    answer[2] |= 0x80;
    assert!(server.bytes(&answer).is_none(), "an answer is not answered");
}

#[test]
fn longest_name_is_answered_within_a_datagram() {
    let label = "a".repeat(63);
    let name = format!("{label}.{label}.{label}.{}.x.example.", "b".repeat(51));
    let mut server = Server::new("*.x.example", 10);
    let mut longest = query(&name, RecordType::AAAA);
    longest.set_edns(Edns::new());
    assert_eq!(server.ask(&longest).0.answers.len(), 1);
    server.grants = NetGrants::default();
    assert_eq!(server.ask(&longest).0.metadata.response_code, ResponseCode::NXDomain);
}

proptest! {
    #[test]
    fn any_bytes_keep_the_invariants(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0_usize..60, value: u8) {
        prop_assert_eq!(crate::fuzz::query(&bytes).err(), None);
        let mut near = query("x.b.example.", RecordType::A).to_vec().unwrap();
        let length = near.len();
        near[at % length] = value;
        near.extend_from_slice(&bytes);
        prop_assert_eq!(crate::fuzz::query(&near).err(), None);
    }
}
