use super::*;
use proptest::prelude::*;

fn checked(port: u16, rules: &[&str], head: &[u8]) -> Result<Option<RequestHead>, HeadError> {
    let rules: Vec<_> = rules
        .iter()
        .map(|rule| rule.split_once(':').unwrap())
        .map(|(method, path)| RequestRule::new(method, path).unwrap())
        .collect();
    RequestCheck { name: &"a.example".parse().unwrap(), port, rules: &rules }.head(head)
}

fn head(lines: &str) -> Result<Option<RequestHead>, HeadError> {
    checked(80, &[], (lines.replace('\n', "\r\n") + "\r\n\r\n").as_bytes())
}

#[test]
fn requests_for_the_granted_host_pass_with_their_body() {
    for (lines, body) in [
        ("GET / HTTP/1.1\nHost: a.example", BodyLength::Fixed(0)),
        ("GET / HTTP/1.0\nhost:A.EXAMPLE.:80", BodyLength::Fixed(0)),
        ("GET http://a.example/x?y HTTP/1.1\nHost: a.example", BodyLength::Fixed(0)),
        ("GET HTTP://a.example:80 HTTP/1.1\nHost: a.example", BodyLength::Fixed(0)),
        ("OPTIONS * HTTP/1.1\nHost: a.example", BodyLength::Fixed(0)),
        ("POST / HTTP/1.1\nHost: a.example\nContent-Length: 12", BodyLength::Fixed(12)),
        ("POST / HTTP/1.1\nHost: a.example\ntransfer-encoding: Chunked", BodyLength::Chunked),
    ] {
        let length = lines.replace('\n', "\r\n").len() + 4;
        assert_eq!(head(lines), Ok(Some(RequestHead { length, body })), "{lines}");
    }
    let two = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\nGET / HTTP/1.1\r\nHost: evil\r\n\r\n";
    assert_eq!(checked(80, &[], two).unwrap().unwrap().length, 35);
    assert!(checked(8080, &[], b"GET / HTTP/1.1\r\nHost: a.example:8080\r\n\r\n").is_ok());
}

#[test]
fn requests_for_other_hosts_are_refused_however_they_say_it() {
    let other = |asked: &str| HeadError::OtherHost { asked: asked.parse().unwrap(), granted: "a.example".parse().unwrap() };
    for (lines, error) in [
        ("GET / HTTP/1.1\nHost: b.example", other("b.example")),
        ("GET / HTTP/1.1\nHost: xa.example", other("xa.example")),
        ("GET / HTTP/1.1\nHost: a.example.evil", other("a.example.evil")),
        ("GET http://b.example/ HTTP/1.1\nHost: a.example", other("b.example")),
        ("GET http://a.example/ HTTP/1.1\nHost: b.example", other("b.example")),
        ("GET http://a.example@b.example/ HTTP/1.1\nHost: a.example", HeadError::Name(NameError::Character)),
        ("GET http://b.example?/a.example/ HTTP/1.1\nHost: a.example", other("b.example")),
        ("GET / HTTP/1.1\nHost: a.example, b.example", HeadError::Name(NameError::Character)),
        ("GET / HTTP/1.1\nHost: a.example\nHost: a.example", HeadError::NoHost),
        ("GET / HTTP/1.1\nX: y", HeadError::NoHost),
        ("GET / HTTP/1.0\nX: y", HeadError::NoHost),
        ("GET / HTTP/1.1\nHost:", HeadError::Name(NameError::Empty)),
        ("GET / HTTP/1.1\nHost: 127.0.0.1", HeadError::Name(NameError::Number)),
        ("GET / HTTP/1.1\nHost: a.example:81", HeadError::OtherPort),
        ("GET / HTTP/1.1\nHost: a.example:", HeadError::OtherPort),
        ("GET / HTTP/1.1\nHost: a.example:080", HeadError::OtherPort),
        ("GET https://a.example/ HTTP/1.1\nHost: a.example", HeadError::OtherPort),
        ("GET a.example/ HTTP/1.1\nHost: a.example", HeadError::NotHttp),
        ("CONNECT b.example:443 HTTP/1.1\nHost: a.example", HeadError::Tunnel),
        ("GET / HTTP/1.1\nHost: a.example\nUpgrade: h2c", HeadError::Tunnel),
        ("PRI * HTTP/2.0", HeadError::NotHttp),
    ] {
        assert_eq!(head(lines), Err(error), "{lines}");
    }
}

#[test]
fn requests_whose_end_is_ambiguous_are_refused() {
    for (raw, error) in [
        ("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "both"),
        ("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", "both"),
        ("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", "not one number"),
        ("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5, 5\r\n\r\n", "not one number"),
        ("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: +5\r\n\r\n", "not one number"),
        ("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0x5\r\n\r\n", "not one number"),
        ("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length:\r\n\r\n", "not one number"),
        ("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 99999999999999999999\r\n\r\n", "not one number"),
        ("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "other than"),
        ("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n", "other than"),
        ("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: xchunked\r\n\r\n", "other than"),
        ("POST / HTTP/1.0\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n", "other than"),
        ("GET / HTTP/1.1\nHost: a.example\r\n\r\n", "CR and LF"),
        ("GET / HTTP/1.1\r\nHost: a.example\nHost: b.example\r\n\r\n", "CR and LF"),
        ("GET / HTTP/1.1\r\nHost: a.example\rX: y\r\n\r\n", "CR and LF"),
        ("GET / HTTP/1.1\r\nHost: a.example\n\nGET / HTTP/1.1\r\nHost: b.example\r\n\r\n", "CR and LF"),
    ] {
        match checked(80, &[], raw.as_bytes()) {
            Err(HeadError::Ambiguous(why)) => assert!(why.contains(error), "{raw}: {why}"),
            other => panic!("{raw}: {other:?}"),
        }
    }
    for raw in [
        "GET / HTTP/1.1\r\nHost : a.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: a.example\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nX: \0\r\n\r\n",
        "GET /\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01",
    ] {
        assert_eq!(checked(80, &[], raw.as_bytes()), Err(HeadError::NotHttp), "{raw:?}");
    }
}

#[test]
fn endless_head_is_refused_at_the_limit() {
    let endless = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(MAX_FIRST_BYTES));
    assert_eq!(checked(80, &[], &endless.as_bytes()[..MAX_FIRST_BYTES - 1]), Ok(None));
    assert_eq!(checked(80, &[], &endless.as_bytes()[..MAX_FIRST_BYTES]), Err(HeadError::TooLong));
    assert_eq!(head(&format!("GET / HTTP/1.1\nHost: a.example{}", "\nX: y".repeat(MAX_FIELDS))), Err(HeadError::TooLong));
}

#[test]
fn rules_decide_about_the_method_and_the_path_without_query() {
    let with_rule = |target: &str| {
        checked(80, &["GET:/v1/*", "POST:/v2"], format!("{target} HTTP/1.1\r\nHost: a.example\r\n\r\n").as_bytes()).map(drop)
    };
    for target in ["GET /v1/a?x=/../y", "GET http://a.example/v1/a", "POST /v2", "POST /v2?a=b"] {
        assert_eq!(with_rule(target), Ok(()), "{target}");
    }
    for target in ["GET /v2", "POST /v1/a", "GET /", "GET http://a.example", "GET http://a.example?/v1/a", "DELETE /v1/a"] {
        assert_eq!(with_rule(target), Err(HeadError::NotAllowed), "{target}");
    }
    for target in ["GET /v1/../admin", "GET /v1/%2e%2e/admin", "GET /v1//a", "GET /v1/a%2Fb", "GET /v1/a#b", "OPTIONS *"] {
        assert!(matches!(with_rule(target), Err(HeadError::Path(_))), "{target}");
    }
}

#[test]
fn headers_that_replace_method_or_path_are_refused_where_a_rule_depends_on_them() {
    for name in ["X-HTTP-Method-Override", "x_http_method_override", "X-Original-URL", "X_Rewrite-Url"] {
        let raw = format!("GET /v1/a HTTP/1.1\r\nHost: a.example\r\n{name}: /admin\r\n\r\n");
        assert!(matches!(checked(80, &["GET:/v1/*"], raw.as_bytes()), Err(HeadError::Override(_))), "{name}");
        assert!(checked(80, &[], raw.as_bytes()).is_ok(), "{name}");
    }
}

proptest! {
    #[test]
    fn an_accepted_head_has_one_host_and_more_bytes_do_not_change_it(
        lines in prop::collection::vec(prop::sample::select(vec![
            "Host: a.example", "Host: b.example", "Content-Length: 5", "Transfer-Encoding: chunked", "X: y", " fold", "Host :a.example", "\n",
        ]), 0..5),
        more in prop::collection::vec(any::<u8>(), 0..30),
    ) {
        let raw = format!("POST / HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n"));
        let result = checked(80, &[], raw.as_bytes());
        prop_assert_eq!(&checked(80, &[], &[raw.as_bytes(), &more].concat()), &result);
        if let Ok(Some(head)) = result {
            let text = std::str::from_utf8(&raw.as_bytes()[..head.length]).unwrap();
            prop_assert_eq!(text.matches("Host: a.example").count(), 1);
            prop_assert!(!text.contains("b.example"));
        }
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = checked(80, &["*:/*"], &bytes);
        let _ = checked(80, &["*:/*"], &[b"GET ", &bytes[..], b" HTTP/1.1\r\nHost: a.example\r\n\r\n"].concat());
    }
}
