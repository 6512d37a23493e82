//! Keys of AWS: the command signs with a placeholder, and the host receives a signature of the real key.

use crate::{
    EgressTest,
    outer::{PUBLIC, heads, name},
    place::EgressDir,
    search::has,
};

pub const TESTS: &[EgressTest] = &[
    ("aws_key_signs_requests_and_is_nowhere_in_the_sandbox", signed),
    ("aws_key_that_cannot_be_used_is_an_error_and_nothing_runs", invalid),
];

const ID: &str = "AKIAREALREALREALREAL";
const SECRET: &str = "real/secret+key-0123456789abcdefghijklmnop";
const NET: [&str; 2] = ["--net", "allow=granted.example"];
const KEY: [&str; 2] = ["--secret", "AWS@granted.example/aws/eu-test-1/s3=aws:env"];

/// Signs a request with the key of the environment, as a library would.
const SIGN: &str = "
import datetime, hashlib, hmac, os, urllib.error, urllib.request as r
print(sorted(name for name in os.environ if name.startswith('AWS_')))
def sign(region):
    time = datetime.datetime.now(datetime.timezone.utc).strftime('%Y%m%dT%H%M%SZ')
    names = 'host;x-amz-content-sha256;x-amz-date'
    canonical = f'GET\\n/reflect\\n\\nhost:granted.example\\nx-amz-content-sha256:UNSIGNED-PAYLOAD\\nx-amz-date:{time}\\n\\n{names}\\nUNSIGNED-PAYLOAD'
    scope = f'{time[:8]}/{region}/s3/aws4_request'
    text = f'AWS4-HMAC-SHA256\\n{time}\\n{scope}\\n' + hashlib.sha256(canonical.encode()).hexdigest()
    key = b'AWS4' + os.environ['AWS_SECRET_ACCESS_KEY'].encode()
    for part in scope.split('/') + [text]: key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    credential = f\"AWS4-HMAC-SHA256 Credential={os.environ['AWS_ACCESS_KEY_ID']}/{scope}, SignedHeaders={names}, Signature={key.hex()}\"
    headers = {'Authorization': credential, 'X-Amz-Date': time, 'X-Amz-Content-SHA256': 'UNSIGNED-PAYLOAD'}
    try: return r.urlopen(r.Request('https://granted.example/reflect', headers=headers)).status
    except urllib.error.HTTPError as e: return e.read().decode()
print(sign('eu-test-1'))
print(sign('us-east-1'))
";

fn signed(backend: &str) {
    name("granted.example", &[PUBLIC]);
    let place = EgressDir::new();
    let mut run = place.trusting(backend, &[&NET[..], &KEY].concat(), &["/usr/bin/python3", "-c", SIGN]);
    let output = run.env("AWS_ACCESS_KEY_ID", ID).env("AWS_SECRET_ACCESS_KEY", SECRET).output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = out.lines().take(3).collect();
    let [variables, first, second] = lines[..] else { panic!("{output:?}") };
    assert_eq!((variables, first), ("['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY']", "200"), "{output:?}");
    assert!(second.starts_with("agentd: the signature of AWS is for another region or service than eu-test-1/s3"), "{out}");
    for part in [ID, SECRET] {
        assert!(!has(&output.stdout, part) && !has(&output.stderr, part), "{output:?}");
    }
    let heads = heads("tls");
    let [head] = &heads[..] else { panic!("{heads:?}") };
    assert!(head.contains(&format!("AWS4-HMAC-SHA256 Credential={ID}/")) && !head.contains(SECRET), "{head}");
}

fn invalid(backend: &str) {
    let place = EgressDir::new();
    for (secret, value, message) in [
        ("AWS@granted.example/aws/eu-test-1/s3=aws:env", None, "=aws:env needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("AWS@granted.example/aws=env:KEY", Some("x"), "`aws` is not followed by /REGION/SERVICE"),
        ("AWS@granted.example/aws/eu-test-1/s3=env:KEY", Some(SECRET), "the value is not ACCESS_KEY_ID:SECRET_ACCESS_KEY"),
        ("AWS@other.example/aws/eu-test-1/s3=env:KEY", Some("AKIDEXAMPLE:0123456789"), "no network grant covers this host"),
    ] {
        let mut run = place.trusting(backend, &[&NET[..], &["--secret", secret]].concat(), &["touch", "ran"]);
        if let Some(value) = value {
            run.env("KEY", value);
        }
        let output = run.output().unwrap();
        assert_eq!(output.status.code(), Some(125), "{secret}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(message), "{secret}: {output:?}");
        assert!(!has(&output.stderr, SECRET), "{output:?}");
    }
    assert!(!place.work().join("ran").exists());
}
