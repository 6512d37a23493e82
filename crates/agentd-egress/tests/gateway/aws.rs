//! Requests to AWS, which the gateway signs again. The signatures of the test are computed by code of its own.

use crate::{
    inspect::{refused, text},
    origin::{Client, HTTP_1, HTTP_2, Seen, certificate, origin, settings},
    sandbox::{Names, config, sandbox},
};
use agentd_egress::{
    inspect::{
        aws::{AwsKey, AwsPlaceholder, AwsScope},
        error::{AwsRefusal, InspectRefusal},
        secret::SecretHost,
    },
    record::{FlowEnd, FlowRecord, FlowRefusal, FlowVerdict},
};
use data_encoding::HEXLOWER;
use ring::{digest, hmac};
use std::{
    io::Write as _,
    process::{Command, Output},
    sync::Arc,
};

pub const TESTS: &[(&str, fn())] = &[
    ("aws_request_is_signed_with_the_real_key_which_stays_outside", signed),
    ("aws_request_that_cannot_be_signed_again_is_refused_with_the_reason", refusals),
    ("aws_request_to_another_host_is_not_signed", other_host),
    ("aws_request_is_not_sent_to_a_server_that_is_not_verified", unverified),
];

const ID: &str = "AKIAREALREALREALREAL";
const SECRET: &str = "real/secret+key-0123456789abcdefghijklmnop";
const TOKEN: &str = "real-session-token//0123456789==";
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// A request without query, in the region `eu-test-1` and for the service `s3`.
struct Request<'a> {
    method: &'a str,
    path: &'a str,
    /// The signed headers in lower case, sorted by name.
    headers: Vec<(&'a str, String)>,
    payload: &'a str,
}

impl Request<'_> {
    /// Returns the value of `Authorization`.
    fn authorization(&self, id: &str, secret: &str) -> String {
        let time = &self.headers.iter().find(|(name, _)| *name == "x-amz-date").unwrap().1;
        let day = &time[..8];
        let names = self.headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let lines: String = self.headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let Self { method, path, payload, .. } = self;
        let canonical = format!("{method}\n{path}\n\n{lines}\n{names}\n{payload}");
        let scope = format!("{day}/eu-test-1/s3/aws4_request");
        let hash = HEXLOWER.encode(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
        let mut key = format!("AWS4{secret}").into_bytes();
        for part in scope.split('/').chain([format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{hash}").as_str()]) {
            key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
        }
        let signature = HEXLOWER.encode(&key);
        format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}")
    }
}

/// The current time, as programs write it.
fn time() -> String {
    let output = Command::new("date").args(["-u", "+%Y%m%dT%H%M%SZ"]).output().unwrap();
    text(&output.stdout).trim().to_owned()
}

/// A program inside that has the placeholder of a key.
struct Program<'a> {
    client: Client<'a>,
    placeholder: AwsPlaceholder,
}

/// Runs `program` in a sandbox that has a key for `a.example`.
fn run<R: Send>(certified: &[&str], program: impl FnOnce(&Program<'_>) -> R + Send) -> (R, Vec<FlowRecord>, Vec<Seen>) {
    let certificate = certificate(certified, &[HTTP_2, HTTP_1]);
    let (port, requests) = origin(&certificate);
    let names = Names::new(&[("a.example", &[&["127.0.0.1"]]), ("b.example", &[&["127.0.0.1"]])]);
    let mut config = config(&format!("a.example:{port}/tls,b.example:{port}/tls/*:/v1/*,127.0.0.1:{port}"), names);
    let (mut settings, _) = settings(&certificate, port, None);
    let placeholder = AwsPlaceholder::random().unwrap();
    let scope = AwsScope { region: "eu-test-1".to_owned(), service: "s3".to_owned() };
    let host = SecretHost { name: "a.example".parse().unwrap(), port };
    settings.aws.push(AwsKey::new(placeholder.clone(), &format!("{ID}:{SECRET}:{TOKEN}"), host, scope).unwrap());
    let mut authority = tempfile::NamedTempFile::new().unwrap();
    authority.write_all(settings.authority.certificate_pem().as_bytes()).unwrap();
    config.inspection = Some(Arc::new(settings));
    let (result, records) = sandbox(config, &[port], |inside| {
        let client = Client { inside, port, placeholder: String::new(), authority };
        program(&Program { client, placeholder })
    });
    let requests = requests.lock().unwrap().clone();
    (result, records, requests)
}

impl Program<'_> {
    /// Sends a request of this method and path with a body, signed with the placeholder, and with these options of curl.
    fn send(&self, name: &str, request: &Request<'_>, options: &[&str], query: &str) -> Output {
        let AwsPlaceholder { id, secret } = &self.placeholder;
        let mut arguments = vec!["-X".to_owned(), request.method.to_owned()];
        arguments.push("-H".to_owned());
        arguments.push(format!("Authorization: {}", request.authorization(&id.to_string(), &secret.to_string())));
        for (header, value) in request.headers.iter().filter(|(header, _)| *header != "host") {
            arguments.push("-H".to_owned());
            arguments.push(format!("{header}: {value}"));
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(options.iter().copied()).collect();
        self.client.curl_at(name, &arguments, &format!("{}{query}", request.path))
    }

    fn host(&self, name: &str) -> String {
        format!("{name}:{}", self.client.port)
    }

    fn request<'a>(&self, path: &'a str, payload: &'a str) -> Request<'a> {
        let headers =
            vec![("host", self.host("a.example")), ("x-amz-content-sha256", payload.to_owned()), ("x-amz-date", time())];
        Request { method: "PUT", path, headers, payload }
    }
}

/// Returns true if no part of the real key is in the text.
fn is_clean(text: &str) -> bool {
    [ID, SECRET, TOKEN].iter().all(|part| !text.contains(part))
}

fn signed() {
    let digest = HEXLOWER.encode(digest::digest(&digest::SHA256, b"a body").as_ref());
    for (flag, payload) in
        [("--http1.1", UNSIGNED), ("--http2", UNSIGNED), ("--http1.1", digest.as_str()), ("--http2", digest.as_str())]
    {
        let (answer, records, seen) = run(&["a.example"], |program| {
            let request = program.request("/v1/reflect", payload);
            let options = [flag, "-d", "a body", "-H", "x-amz-meta-late: 1", "-H", "Range: bytes=0-9", "-D", "-"];
            text(&program.send("a.example", &request, &options, "").stdout)
        });
        let [Seen { method, headers, body, two, .. }] = &seen[..] else { panic!("{flag}: {answer} {records:?}") };
        assert_eq!((method.as_str(), &body[..], *two), ("PUT", &b"a body"[..], flag == "--http2"));
        assert_eq!(headers["range"], "bytes=0-9");
        let value = |name: &str| headers[name].to_str().unwrap().to_owned();
        let host = format!("a.example:{}", records[0].wanted.port());
        let names = ["x-amz-content-sha256", "x-amz-date", "x-amz-meta-late", "x-amz-security-token"];
        let sent = [("host", host)].into_iter().chain(names.map(|name| (name, value(name)))).collect();
        let expected = Request { method: "PUT", path: "/v1/reflect", headers: sent, payload };
        assert_eq!(value("authorization"), expected.authorization(ID, SECRET), "{flag} {payload}");
        assert_eq!(value("x-amz-security-token"), TOKEN);
        assert!(!format!("{headers:?}").contains(SECRET), "the secret itself is in no request");
        assert!(answer.contains("you sent: AWS4-HMAC-SHA256 Credential=*****"), "{answer}");
        assert!(is_clean(&answer) && is_clean(&format!("{records:?}")), "{answer} {records:?}");
    }
}

fn refusals() {
    let (answers, records, seen) = run(&["a.example"], |program| {
        let streaming = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
        let mut no_digest = program.request("/v1/echo", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        no_digest.headers.retain(|(name, _)| *name != "x-amz-content-sha256");
        let mut old = program.request("/v1/echo", UNSIGNED);
        old.headers[2].1 = "20200101T000000Z".to_owned();
        let plain = program.request("/v1/echo", UNSIGNED);
        let send = |request: &Request<'_>, options: &[&str], query: &str| {
            let options = [&["-d", "a body", "-w", "%{http_code}"], options].concat();
            let output = program.send("a.example", request, &options, query);
            assert!(output.status.success(), "{}", text(&output.stderr));
            text(&output.stdout)
        };
        let presigned = ["-w", "%{http_code}"];
        [
            send(&program.request("/v1/echo", streaming), &[], ""),
            send(&no_digest, &[], ""),
            send(&old, &[], ""),
            send(&plain, &[], "?added=later"),
            send(&plain, &["-H", "x-amz-security-token: own"], ""),
            text(&program.client.curl(&presigned, "/v1/echo?X-Amz-Credential=own&X-Amz-Signature=0").stdout),
            text(&program.client.curl(&[&presigned[..], &["-H", "Authorization: Bearer own"]].concat(), "/v1/echo").stdout),
        ]
    });
    assert!(answers.iter().all(|answer| answer.starts_with("agentd: ") && answer.ends_with("\n403")), "{answers:#?}");
    assert!(seen.is_empty(), "{seen:?}");
    let own = |header: &str| InspectRefusal::Credential { header: header.to_owned() };
    let aws = |refusal: AwsRefusal| InspectRefusal::Aws(refusal);
    let expected = [
        aws(AwsRefusal::Chunked),
        aws(AwsRefusal::Digest),
        aws(AwsRefusal::Time),
        aws(AwsRefusal::Signature),
        own("x-amz-security-token"),
        aws(AwsRefusal::Presigned),
        own("authorization"),
    ];
    assert_eq!(refused(&records), expected.map(FlowRefusal::Inspect));
}

fn other_host() {
    let (_, _, seen) = run(&["a.example", "b.example"], |program| {
        let mut request = program.request("/v1/echo", UNSIGNED);
        request.headers[0].1 = program.host("b.example");
        program.send("b.example", &request, &["-d", "a body"], "");
        // The host inside of a connection to the other host does not count.
        program.send("b.example", &program.request("/v1/echo", UNSIGNED), &["-H", "Host: a.example", "-d", "a body"], "");
    });
    let [seen] = &seen[..] else { panic!("{seen:?}") };
    assert!(is_clean(&format!("{seen:?}")) && seen.headers.contains_key("authorization"), "{seen:?}");
    assert!(!seen.headers.contains_key("x-amz-security-token"));
}

fn unverified() {
    let (output, records, seen) = run(&["other.example"], |program| {
        program.send("a.example", &program.request("/v1/echo", UNSIGNED), &["-d", "a body"], "")
    });
    assert!(!output.status.success() && seen.is_empty());
    let [FlowRecord { verdict: FlowVerdict::Granted { end: FlowEnd::Unreachable(_), .. }, .. }] = &records[..] else {
        panic!("{records:?}")
    };
}
