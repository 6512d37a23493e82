use super::*;
use proptest::prelude::*;

#[path = "../tests/gateway/client_hello.rs"]
mod client_hello;

pub(crate) use client_hello::real_hello;

fn name(text: &str) -> HostName {
    text.parse().unwrap()
}

/// A ClientHello with these extensions, in records of at most `max` bytes.
pub(crate) fn made(extensions: &[(u16, Vec<u8>)], max: usize) -> Vec<u8> {
    let long = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let extensions: Vec<u8> =
        extensions.iter().flat_map(|(kind, data)| [&kind.to_be_bytes()[..], &long(data)].concat()).collect();
    let body = [&[3, 3][..], &[7; 32], &[0], &long(&[0x13, 1]), &[1, 0], &long(&extensions)].concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[CLIENT_HELLO], &length[1..], &body].concat();
    message.chunks(max).flat_map(|part| [&[HANDSHAKE_RECORD, 3, 1][..], &long(part)].concat()).collect()
}

/// The SNI extension with these entries.
pub(crate) fn sni(entries: &[(u8, &[u8])]) -> (u16, Vec<u8>) {
    let long = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let list: Vec<u8> = entries.iter().flat_map(|(kind, name)| [&[*kind][..], &long(name)].concat()).collect();
    (SERVER_NAME, long(&list))
}

#[test]
fn name_of_a_real_client_is_read_however_the_bytes_arrive() {
    let bytes = real_hello("api.example.com");
    let hello = decode(&bytes).unwrap().unwrap();
    assert_eq!(hello, ClientHello { server_name: Some(name("api.example.com")), encrypted: false });
    for end in 0..bytes.len() {
        assert_eq!(decode(&bytes[..end]), Ok(None), "{end}");
    }
    // Early data and later records do not matter.
    assert_eq!(decode(&[&bytes[..], &[23, 3, 3, 0, 9]].concat()), Ok(Some(hello)));
    assert_eq!(decode(&real_hello("10.0.0.1")).unwrap().unwrap().server_name, None);
}

#[test]
fn message_in_many_records_is_read() {
    let extensions = [(43, vec![2, 3, 4]), sni(&[(0, b"API.example.com")])];
    let whole = decode(&made(&extensions, 10_000)).unwrap().unwrap();
    assert_eq!(whole.server_name, Some(name("api.example.com")));
    for max in [1, 2, 3, 4, 5, 50] {
        assert_eq!(decode(&made(&extensions, max)).unwrap().as_ref(), Some(&whole), "{max}");
    }
}

#[test]
fn only_the_granted_name_in_the_open_is_accepted() {
    let granted = name("api.example.com");
    let verdict = |extensions: &[(u16, Vec<u8>)]| check(&decode(&made(extensions, 9000)).unwrap().unwrap(), &granted);
    assert_eq!(verdict(&[sni(&[(0, b"Api.Example.com")])]), Ok(()));
    assert_eq!(verdict(&[]), Err(HelloError::NoName));
    assert_eq!(verdict(&[(16, vec![0, 3, 2, b'h', b'2'])]), Err(HelloError::NoName));
    for other in ["evil.example", "xapi.example.com", "api.example.com.evil", "example.com"] {
        let error = verdict(&[sni(&[(0, other.as_bytes())])]);
        assert_eq!(error, Err(HelloError::OtherName { asked: name(other), granted: granted.clone() }));
    }
    for kind in ENCRYPTED {
        assert_eq!(verdict(&[sni(&[(0, b"api.example.com")]), (kind, vec![0; 40])]), Err(HelloError::Encrypted));
    }
}

#[test]
fn damaged_and_foreign_starts_are_refused() {
    let decoded = |extensions: &[(u16, Vec<u8>)]| decode(&made(extensions, 9000));
    let good = || sni(&[(0, b"a.example")]);
    for (extensions, why) in [
        (vec![good(), good()], "two server names"),
        (vec![sni(&[(0, b"a.example"), (0, b"b.example")])], "the server name is not exactly one host name"),
        (vec![sni(&[(1, b"a.example")])], "the server name is not exactly one host name"),
        (vec![(SERVER_NAME, vec![])], "server name"),
        (vec![(SERVER_NAME, vec![0, 200, 0, 0, 1])], "server name"),
    ] {
        assert_eq!(decoded(&extensions), Err(HelloError::Damaged(why)));
    }
    for bad in [&b"evil\0.a.example"[..], b"10.0.0.1", b"", b"a..example", "ä.example".as_bytes()] {
        assert!(matches!(decoded(&[sni(&[(0, bad)])]), Err(HelloError::Name(_))), "{bad:?}");
    }
    for foreign in [&b"SSH-2.0-x"[..], b"GET / HTTP/1.1\r\n", b"\x80\x2e\x01\x03\x01", b"\x16\x02\x00\x00\x05", b"\x00"] {
        assert_eq!(decode(foreign), Err(HelloError::NotTls), "{foreign:?}");
    }
    assert_eq!(decode(&[22, 3, 1, 0, 0]), Err(HelloError::Damaged("the length of a record")));
    assert_eq!(decode(&[22, 3, 1, 0x40, 1]), Err(HelloError::Damaged("the length of a record")));
    assert_eq!(decode(&[22, 3, 1, 0, 9, 2]), Err(HelloError::Damaged("the first message is not a ClientHello")));
    assert_eq!(decode(&[22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff]), Err(HelloError::TooLong));
    let mut trailing = made(&[good()], 9000);
    let length = u16::from_be_bytes([trailing[3], trailing[4]]) + 1;
    trailing[3..5].copy_from_slice(&length.to_be_bytes());
    trailing.push(0);
    assert_eq!(decode(&trailing), Err(HelloError::Damaged("bytes after the message in its record")));
}

#[test]
fn endless_hello_is_refused_at_the_limit() {
    let tiny: Vec<u8> = [22, 3, 1, 0, 1, 1, 22, 3, 1, 0, 1, 0].into_iter().chain([22, 3, 1, 0, 1, 0x30].repeat(4000)).collect();
    assert_eq!(decode(&tiny[..MAX_FIRST_BYTES - 1]), Ok(None));
    assert_eq!(decode(&tiny[..MAX_FIRST_BYTES]), Err(HelloError::TooLong));
}

proptest! {
    #[test]
    fn changed_bytes_never_panic_and_more_bytes_never_change_a_decision(
        at in 0_usize..400, value: u8, cut in 0_usize..400, max in 1_usize..200,
    ) {
        let mut bytes = made(&[sni(&[(0, b"api.example.com")]), (43, vec![0; 60])], max);
        let length = bytes.len();
        bytes[at % length] = value;
        let part = decode(&bytes[..cut.min(length)]);
        let whole = decode(&bytes);
        prop_assert!(part == Ok(None) || part == whole, "{:?} {:?}", part, whole);
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let framed = [&[22, 3, 1][..], &u16::try_from(bytes.len()).unwrap().to_be_bytes(), &bytes].concat();
        let _ = (decode(&bytes), decode(&framed));
    }
}
