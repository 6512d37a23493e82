use super::*;
use hyper::Request;
use std::time::{Duration, UNIX_EPOCH};

/// The time of the requests of the published test suite: 2015-08-30T12:36:00Z.
const TIME: &str = "20150830T123600Z";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_440_938_160)
}

fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut made = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        made = made.header(*name, *value);
    }
    made.body(()).unwrap().into_parts().0
}

fn signature(parts: &Parts, headers: &[&str], scope: &Scope<'_>, time: &str, secret: &str) -> String {
    let headers: Vec<String> = headers.iter().map(|name| (*name).to_owned()).collect();
    let host = parts.headers["host"].as_bytes();
    Canonical { parts, host, headers: &headers, payload: EMPTY, scope }.signature(time, secret.as_bytes()).unwrap()
}

/// The signatures are those of the test suite and of the examples that AWS has published.
#[test]
fn published_requests_have_their_published_signatures() {
    let host = ("Host", "example.amazonaws.com");
    let date = ("X-Amz-Date", TIME);
    for (name, method, uri, headers, signed, service, expected) in [
        (
            "get-vanilla",
            "GET",
            "/",
            &[host, date][..],
            &["host", "x-amz-date"][..],
            "service",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        ),
        (
            "post-vanilla",
            "POST",
            "/",
            &[host, date],
            &["host", "x-amz-date"],
            "service",
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        ),
        (
            "get-vanilla-query-order-key-case",
            "GET",
            "/?Param2=value2&Param1=value1",
            &[host, date],
            &["host", "x-amz-date"],
            "service",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            "get-header-key-duplicate",
            "GET",
            "/",
            &[host, ("My-Header1", "value2"), ("My-Header1", "value2"), ("My-Header1", "value1"), date],
            &["host", "my-header1", "x-amz-date"],
            "service",
            "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
        ),
        (
            "get-header-value-trim",
            "GET",
            "/",
            &[host, ("My-Header1", " value1"), ("My-Header2", " \"a   b   c\""), date],
            &["host", "my-header1", "my-header2", "x-amz-date"],
            "service",
            "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
        ),
        (
            "ListUsers of IAM",
            "GET",
            "/?Action=ListUsers&Version=2010-05-08",
            &[("Host", "iam.amazonaws.com"), ("Content-Type", "application/x-www-form-urlencoded; charset=utf-8"), date],
            &["content-type", "host", "x-amz-date"],
            "iam",
            "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
        ),
    ] {
        let scope = Scope { day: "20150830", region: "us-east-1", service };
        assert_eq!(signature(&parts(method, uri, headers), signed, &scope, TIME, SECRET), expected, "{name}");
    }
    let time = "20130524T000000Z";
    let headers = [
        ("Host", "examplebucket.s3.amazonaws.com"),
        ("Range", "bytes=0-9"),
        ("x-amz-content-sha256", EMPTY),
        ("x-amz-date", time),
    ];
    let signed = ["host", "range", "x-amz-content-sha256", "x-amz-date"];
    let scope = Scope { day: "20130524", region: "us-east-1", service: "s3" };
    let found =
        signature(&parts("GET", "/test.txt", &headers), &signed, &scope, time, "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
    assert_eq!(found, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
}

fn key() -> (AwsPlaceholder, AwsKey) {
    let placeholder = AwsPlaceholder::random().unwrap();
    let host = SecretHost { name: "example.amazonaws.com".parse().unwrap(), port: 443 };
    let scope = AwsScope { region: "us-east-1".to_owned(), service: "service".to_owned() };
    let value = format!("AKIDEXAMPLE:{SECRET}:session-token+/=");
    (placeholder.clone(), AwsKey::new(placeholder, &value, host, scope).unwrap())
}

/// A request that a program has signed with the placeholder.
struct Signed {
    day: &'static str,
    region: &'static str,
    service: &'static str,
    secret: Option<String>,
    headers: Vec<(&'static str, String)>,
    signed: Vec<&'static str>,
    payload: &'static str,
}

impl Default for Signed {
    fn default() -> Self {
        Self {
            day: "20150830",
            region: "us-east-1",
            service: "service",
            secret: None,
            headers: vec![("host", "example.amazonaws.com".to_owned()), ("x-amz-date", TIME.to_owned())],
            signed: vec!["host", "x-amz-date"],
            payload: EMPTY,
        }
    }
}

impl Signed {
    fn request(&self, placeholder: &AwsPlaceholder) -> Parts {
        let headers: Vec<_> = self.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut parts = parts("GET", "/a?b=1", &headers);
        let scope = Scope { day: self.day, region: self.region, service: self.service };
        let names: Vec<String> = self.signed.iter().map(|name| (*name).to_owned()).collect();
        let host = parts.headers["host"].as_bytes().to_vec();
        let canonical = Canonical { parts: &parts, host: &host, headers: &names, payload: self.payload, scope: &scope };
        let secret = self.secret.clone().unwrap_or_else(|| placeholder.secret.to_string());
        let signature = canonical.signature(TIME, secret.as_bytes()).unwrap_or_default();
        let value = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={}, Signature={signature}",
            placeholder.id,
            names.join(";")
        );
        parts.headers.insert("authorization", value.parse().unwrap());
        parts
    }
}

fn refusal(key: &AwsKey, parts: &Parts, has_body: bool) -> InspectRefusal {
    check(&[key], parts, has_body, now()).err().unwrap()
}

#[test]
fn request_is_signed_again_with_the_real_key_and_token() {
    let (placeholder, key) = key();
    let mut signed = Signed::default();
    signed.headers.push(("x-amz-meta-own", "added later".to_owned()));
    let mut parts = signed.request(&placeholder);
    let (found, request) = check(&[&key], &parts, false, now()).unwrap().unwrap();
    found.sign(&request, "example.amazonaws.com", &mut parts).unwrap();
    let names = ["host", "x-amz-date", "x-amz-meta-own", "x-amz-security-token"];
    let scope = Scope { day: "20150830", region: "us-east-1", service: "service" };
    let expected = format!(
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders={}, Signature={}",
        names.join(";"),
        signature(&parts, &names, &scope, TIME, SECRET)
    );
    assert_eq!(parts.headers["authorization"], expected);
    assert_eq!(parts.headers["x-amz-security-token"], "session-token+/=");
    let printed = format!("{parts:?}");
    assert!(!printed.contains("AKIDEXAMPLE") && !printed.contains("session-token"), "{printed}");
}

#[test]
fn request_that_is_not_signed_with_the_placeholder_is_refused() {
    let (placeholder, key) = key();
    let (other, _) = self::key();
    let signature = InspectRefusal::from(AwsRefusal::Signature);
    let own = |header: &str| InspectRefusal::Credential { header: header.to_owned() };
    let forged = Signed { secret: Some("another secret".to_owned()), ..Signed::default() };
    assert_eq!(refusal(&key, &forged.request(&placeholder), false), signature);
    let mut changed = Signed::default().request(&placeholder);
    changed.uri = "/other?b=1".parse().unwrap();
    assert_eq!(refusal(&key, &changed, false), signature);
    assert_eq!(refusal(&key, &Signed::default().request(&other), false), own("authorization"));
    let mut token = Signed::default().request(&placeholder);
    token.headers.insert("x-amz-security-token", "own".parse().unwrap());
    assert_eq!(refusal(&key, &token, false), own("x-amz-security-token"));
    let valid = Signed::default().request(&placeholder).headers["authorization"].to_str().unwrap().to_owned();
    for value in [
        "",
        "Bearer own",
        "AWS AKIDEXAMPLE:signature",
        &valid.replace("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"),
        &valid.replace("aws4_request", "aws4"),
        &format!("{valid}, Signature=0"),
        &valid.replace("Credential=", "Credential=x/"),
    ] {
        let mut parts = Signed::default().request(&placeholder);
        parts.headers.insert("authorization", value.parse().unwrap());
        assert_eq!(refusal(&key, &parts, false), own("authorization"), "{value}");
    }
    let mut two = Signed::default().request(&placeholder);
    two.headers.append("authorization", valid.parse().unwrap());
    assert_eq!(refusal(&key, &two, false), own("authorization"));
}

#[test]
fn request_that_the_key_must_not_sign_is_refused() {
    let (placeholder, key) = key();
    let with = |name: &'static str, value: &str, payload: &'static str| {
        let mut signed = Signed { payload, ..Signed::default() };
        signed.headers.push((name, value.to_owned()));
        signed.request(&placeholder)
    };
    let scope = || AwsRefusal::Scope { region: "us-east-1".to_owned(), service: "service".to_owned() };
    let streaming = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
    let later = Signed {
        headers: vec![("host", "example.amazonaws.com".to_owned()), ("x-amz-date", "20150830T125101Z".to_owned())],
        ..Signed::default()
    };
    for (parts, has_body, expected) in [
        (Signed { region: "eu-west-1", ..Signed::default() }.request(&placeholder), false, scope()),
        (Signed { service: "iam", ..Signed::default() }.request(&placeholder), false, scope()),
        (Signed { day: "20150831", ..Signed::default() }.request(&placeholder), false, AwsRefusal::Time),
        (later.request(&placeholder), false, AwsRefusal::Time),
        (Signed { signed: vec!["host"], ..Signed::default() }.request(&placeholder), false, AwsRefusal::Form),
        (Signed { signed: vec!["x-amz-date"], ..Signed::default() }.request(&placeholder), false, AwsRefusal::Form),
        (Signed { signed: vec!["x-amz-date", "host"], ..Signed::default() }.request(&placeholder), false, AwsRefusal::Form),
        (
            Signed { signed: vec!["host", "missing", "x-amz-date"], ..Signed::default() }.request(&placeholder),
            false,
            AwsRefusal::Form,
        ),
        (Signed::default().request(&placeholder), true, AwsRefusal::Digest),
        (with("x-amz-content-sha256", streaming, streaming), true, AwsRefusal::Chunked),
        (with("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", EMPTY), true, AwsRefusal::Chunked),
        (with("x-amz-content-sha256", "unsigned", EMPTY), true, AwsRefusal::Form),
        (with("x-amz-date", TIME, EMPTY), false, AwsRefusal::Form),
    ] {
        assert_eq!(refusal(&key, &parts, has_body), InspectRefusal::from(expected), "{:?}", parts.headers);
    }
    for query in ["X-Amz-Signature=1", "a=1&x-amz-credential=x", "AWSAccessKeyId=x&Signature=y", "X%2dAmz-Algorithm=x"] {
        let uri = format!("/?{query}");
        for headers in [&[("host", "example.amazonaws.com")][..], &[]] {
            assert_eq!(
                refusal(&key, &self::parts("GET", &uri, headers), false),
                InspectRefusal::from(AwsRefusal::Presigned),
                "{query}"
            );
        }
    }
}

#[test]
fn bodies_that_are_unsigned_or_have_a_digest_are_accepted() {
    let (placeholder, key) = key();
    let digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    for payload in ["UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", digest] {
        let mut signed = Signed { payload, ..Signed::default() };
        signed.headers.push(("x-amz-content-sha256", payload.to_owned()));
        let accepted = check(&[&key], &signed.request(&placeholder), true, now());
        assert_eq!(accepted.unwrap().unwrap().1.payload, payload);
    }
}

#[test]
fn request_without_a_signature_stays_without_one() {
    let (_, key) = key();
    assert!(check(&[&key], &parts("GET", "/", &[("host", "example.amazonaws.com")]), true, now()).unwrap().is_none());
    assert!(check(&[], &parts("GET", "/?X-Amz-Signature=1", &[]), true, now()).unwrap().is_none(), "a host without a key");
}

proptest::proptest! {
    #[test]
    fn any_authorization_is_read_or_refused(text in "(AWS4-HMAC-SHA256 )?[A-Za-z=/,; 0-9é]{0,80}") {
        if let Some(read) = request::Authorization::read(&text) {
            proptest::prop_assert!(text.starts_with(ALGORITHM) && text.contains(read.signature));
        }
    }
}

#[test]
fn key_of_another_form_is_refused_without_its_text() {
    for value in [
        "",
        "AKIDEXAMPLE",
        "AKIDEXAMPLE:",
        ":secret-secret",
        "AKID/EXAMPLE:secret-secret",
        "AKIDEXAMPLE:secret secret",
        "AKIDEXAMPLE:secret-secret:short",
    ] {
        let host = SecretHost { name: "a.example".parse().unwrap(), port: 443 };
        let scope = AwsScope { region: "r".to_owned(), service: "s".to_owned() };
        let error = AwsKey::new(AwsPlaceholder::random().unwrap(), value, host, scope).err().unwrap().to_string();
        assert!(error.contains(" — ") && (value.is_empty() || !error.contains(value)), "{value}: {error}");
    }
}
